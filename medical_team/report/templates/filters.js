// Which games are listed: the filters, the address that holds them, and the search.

const EMPTY = {
  q: "", run: "", part: "", from: "", to: "", type: "", error: "", outcome: "", opponent: "", case: "", row: "", attack: "",
  role: "assessor", min: "", max: "", only: "", sort: "played",
};
const PARTS = { train: "training", val: "validation", unscored_train: "training, no verdict", unscored_val: "validation, no verdict" };
const ONLY = {
  forfeit: ["forfeits", (i) => games.column.forfeit[i] !== null],
  archived: ["archived attacks", (i) => games.column.opponent[i] === "archive"],
  attacked: ["fresh attacks", (i) => games.column.attacker[i] !== null && games.column.forfeit[i] === null],
  truth: ["notes with an error", (i) => games.column.truth[i] === true],
  clean: ["notes without an error", (i) => games.column.truth[i] === false],
  undecided: ["the judge undecided", (i) => games.column.judge[i] !== null && games.column.truth[i] === null],
  gold: ["labelled by gold", (i) => games.column.judge[i] === "gold"],
  judged: ["labelled by the judge", (i) => ![null, "gold", "archive"].includes(games.column.judge[i])],
  broken: ["a broken format", (i) => games.column.broken[i]],
  untrained: ["a turn that is not trained", (i) => games.column.untrained[i]],
  gained: ["fixed notes: right now, wrong at the validation before", flipped("before", 1)],
  lost: ["fixed notes: wrong now, right at the validation before", flipped("before", -1)],
  better: ["fixed notes: right here, wrong in the other run", flipped("other", 1)],
  worse: ["fixed notes: wrong here, right in the other run", flipped("other", -1)],
};
const OF_TWO_RUNS = new Set(["better", "worse"]);
const SORTS = {
  played: ["as played", null],
  latest: ["latest step first", (i) => -games.column.step[i]],
  assessor: ["assessor's reward, lowest first", (i) => games.column.assessor[i] ?? Infinity],
  attacker: ["attacker's reward, highest first", (i) => -(games.column.attacker[i] ?? -Infinity)],
  tokens: ["most tokens first", (i) => -games.column.tokens[i]],
  seconds: ["longest time first", (i) => -games.column.seconds[i]],
  unsure: ["the judge least sure first", (i) => (games.column.p_error[i] === null ? Infinity : Math.abs(games.column.p_error[i] - 0.5))],
  case: ["by case", null],
};

let filters = { ...EMPTY };
let listed = [];
let searching = 0;

function fromAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const found = { ...EMPTY };
  for (const name of Object.keys(EMPTY)) if (given.has(name)) found[name] = given.get(name);
  const view = given.get("view") ?? (given.has("game") || Object.keys(EMPTY).some((name) => given.has(name)) ? "games" : "overview");
  return { view, game: given.get("game"), filters: found };
}

function address(view, game, now = filters) {
  const out = new URLSearchParams();
  if (view !== "games" || !game) out.set("view", view);
  if (view === "games") {
    for (const [name, value] of Object.entries(now)) if (value !== EMPTY[name]) out.set(name, value);
    if (game) out.set("game", game);
  }
  return `#${out}`;
}

function number(text) {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}

function tests(now) {
  const { column } = games;
  const same = (name, value) => value && ((i) => column[name][i] === value);
  const [from, to, min, max] = [now.from, now.to, now.min, now.max].map(number);
  const reward = column[now.role === "attacker" ? "attacker" : "assessor"];
  const outcome = games.outcomes.indexOf(now.outcome);
  return [
    now.run && ((i) => column.run[i] === Number(now.run)),
    same("partition", now.part), same("type", now.type), same("error", now.error), same("opponent", now.opponent),
    same("case", now.case), same("uid", now.row), same("attack", now.attack),
    from !== null && ((i) => column.step[i] >= from),
    to !== null && ((i) => column.step[i] <= to),
    now.outcome && ((i) => column.outcomes[i].includes(outcome)),
    min !== null && ((i) => reward[i] !== null && reward[i] >= min),
    max !== null && ((i) => reward[i] !== null && reward[i] <= max),
    now.only && ONLY[now.only]?.[1],
  ].filter(Boolean);
}

function sorted(found, by) {
  if (by === "case") return found.sort((a, b) => (games.column.case[a] < games.column.case[b] ? -1 : games.column.case[a] > games.column.case[b] ? 1 : a - b));
  const key = SORTS[by]?.[1];
  return key ? found.sort((a, b) => key(a) - key(b) || a - b) : found;
}

// Calls `show` with the games that pass, more of them as the search goes on.
async function applyFilters(show) {
  const mine = ++searching;
  const every = tests(filters);
  const passed = [];
  for (let i = 0; i < games.count; i++) if (every.every((test) => test(i))) passed.push(i);
  const terms = termsOf(filters.q);
  if (!terms.length) {
    listed = sorted(passed, filters.sort);
    show(true);
    return;
  }
  const found = [];
  let shown = performance.now();
  let block = -1;
  let texts = [];
  for (const i of passed) {
    const wanted = Math.floor(i / games.perBlock);
    if (wanted !== block) {
      texts = await searchableBlock(wanted, terms);
      block = wanted;
      if (mine !== searching) return;
      if (performance.now() - shown > 150) {
        listed = sorted([...found], filters.sort);
        show(false, i / games.count);
        shown = performance.now();
      }
    }
    const text = texts?.[i % games.perBlock] ?? "";
    if (terms.every((term) => text.includes(term))) found.push(i);
  }
  listed = sorted(found, filters.sort);
  show(true);
}

function distinct(name) {
  return [...new Set(games.column[name])].filter((value) => value !== null).sort();
}

function buildFilters(changed) {
  const form = document.getElementById("filters");
  const control = (name, label, node) => h("label", null, label, fill(node, { name, id: `filter-${name}` }, []));
  const choice = (name, label, options, none = "any") => control(name, label,
    h("select", null, none === null ? [] : h("option", { value: "" }, none), options.map(([value, text]) => h("option", { value }, said(text)))));
  const plain = (name) => distinct(name).map((value) => [value, words(value)]);
  const steps = games.column.step.reduce(([a, b], step) => [Math.min(a, step), Math.max(b, step)], [Infinity, -Infinity]);
  const numeric = (name, label, hint) => h("input", { type: "number", name, id: `filter-${name}`, "aria-label": label, placeholder: hint, step: "any" });
  const fields = h("div", { class: "fields" },
    DATA.runs.length > 1 && choice("run", "Run", DATA.runs.map((run, i) => [String(i), `${i ? "compared" : "first"}: ${run.name}`])),
    choice("part", "Games of", distinct("partition").map((value) => [value, PARTS[value]])),
    h("fieldset", null, h("legend", null, "Steps"), h("div", null,
      numeric("from", "first step", games.count ? String(steps[0]) : "from"), "to", numeric("to", "last step", games.count ? String(steps[1]) : "to"))),
    choice("type", "Game type", plain("type")),
    choice("error", "Error type", plain("error")),
    choice("outcome", "Outcome", games.outcomes.map((name) => [name, name])),
    distinct("opponent").length > 1 && choice("opponent", "Opponent", plain("opponent")),
    h("fieldset", null, h("legend", null, "Reward"), h("div", null,
      h("select", { name: "role", id: "filter-role", "aria-label": "whose reward" }, ["assessor", "attacker"].map((role) => h("option", { value: role }, role))),
      numeric("min", "least reward", "least"), "to", numeric("max", "most reward", "most"))),
    choice("only", "Only", Object.entries(ONLY).filter(([name]) => DATA.runs.length > 1 || !OF_TWO_RUNS.has(name)).map(([name, [label]]) => [name, label]), "all games"),
    choice("sort", "Order", Object.entries(SORTS).map(([name, [label]]) => [name, label]), null),
  );
  const toggle = h("button", { type: "button", id: "toggle-fields", "aria-expanded": "false", click: () => {
    toggle.setAttribute("aria-expanded", String(form.classList.toggle("unfolded")));
  } }, "Filters");
  for (const name of ["only", "sort"]) fields.querySelector(`[name="${name}"]`).parentElement.classList.add("front");
  form.append(h("div", { class: "search" },
    h("input", { type: "search", name: "q", id: "filter-q", placeholder: "Search notes, reasoning, answers, ids", "aria-label": "Search games" }), toggle), fields);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    filters = { ...filters, [event.target.name]: event.target.value };
    changed();
  });
}

function showFilters() {
  for (const node of document.querySelectorAll("#filters [name]")) {
    if (node.value !== filters[node.name]) node.value = filters[node.name];
    node.toggleAttribute("data-on", filters[node.name] !== EMPTY[node.name]);
  }
}
