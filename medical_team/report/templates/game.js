// One game: the notes side by side, each turn, the labels and what they were worth.

const OUTCOME_WORDS = {
  found: "Error found", passed: "Clean note passed", "wrong sentence": "Wrong sentence", missed: "Error missed",
  "false alarm": "False alarm", "broken format": "Broken format", undecided: "Undecided", forfeit: "Forfeit", unscored: "No verdict",
};

function diffed(segments, side, terms) {
  return segments.map(([kind, text]) => {
    if (kind === "=") return said(text, terms);
    if (kind === "-" && side !== "after") return h("del", null, h("span", { class: "sr" }, "removed: "), said(text, terms), h("span", { class: "sr" }, " end of removed "));
    if (kind === "+" && side !== "before") return h("ins", null, h("span", { class: "sr" }, "added: "), said(text, terms), h("span", { class: "sr" }, " end of added "));
    return null;
  });
}

function fold(title, text, terms = [], open = false) {
  if (text === null || text === undefined) return null;
  return h("details", { open, class: title === "Reasoning" ? "reasoning" : null }, h("summary", null, title), h("pre", { dir: "auto", tabindex: "0" }, text === "" ? "(empty)" : said(text, terms)));
}

function assessorsOf(game) {
  return game.turns.filter((turn) => turn.role === "assessor");
}

// What one should know of a sentence of the note that was read.
function flagsOf(game, id, outcomes) {
  const flags = [];
  if (game.changed_ids.includes(id)) {
    const error = game.labels?.error_present;
    flags.push(error ? ["the error is here", "bad"] : ["differs from the clean note", ""]);
  }
  const assessors = assessorsOf(game);
  assessors.forEach((turn, i) => {
    if (turn.sentence_id !== id || turn.classification !== "Harmful") return;
    const right = outcomes[i] === "found";
    const who = assessors.length > 1 ? `assessor ${i + 1}` : "the assessor";
    const open = outcomes[i] === "undecided" || outcomes[i] === "unscored";
    flags.push([`${right ? "✓" : open ? "?" : "✗"} ${who} points here`, right ? "good" : open ? "" : "bad"]);
  });
  return flags;
}

function sentence(id, content, flags = [], changed = false) {
  return h("div", { class: `sentence${changed ? " changed" : ""}` }, h("span", { class: "n" }, id === null ? "" : String(id)),
    h("span", { class: "text", dir: "auto" }, content),
    flags.length ? h("span", { class: "flags" }, flags.map(([text, kind]) => h("span", { class: `flag ${kind}` }, text))) : null);
}

function notesOf(game, outcomes, terms) {
  const read = game.note;
  if (read === null) {
    return h("section", null, h("h3", null, "The note", h("span", { class: "quiet" }, "the attack was a forfeit, so no assessor read it")),
      h("div", { class: "note single" }, game.source.map((text, i) => sentence(i, said(text, terms)))));
  }
  const changes = game.diff.filter(([, , segments]) => segments !== null);
  if (!changes.length) {
    return h("section", null, h("h3", null, "The note", h("span", { class: "quiet" }, "no attacker; the assessor read the source note as it is")),
      h("div", { class: "note single" }, read.map((text, i) => sentence(i, said(text, terms), flagsOf(game, i, outcomes), game.changed_ids.includes(i)))));
  }
  const cells = game.diff.flatMap(([before, after, segments]) => {
    const flags = after === null ? [] : flagsOf(game, after, outcomes);
    const left = before === null ? h("div") : sentence(before, segments ? diffed(segments, "before", terms) : said(game.source[before], terms), [], segments !== null);
    const right = after === null ? h("div", { class: "quiet" }, h("span", { class: "sr" }, "sentence removed")) : sentence(after, segments ? diffed(segments, "after", terms) : said(read[after], terms), flags, segments !== null);
    left.classList.toggle("twice", segments === null);
    return [left, right];
  });
  return h("section", null, h("h3", null, "The notes", h("span", { class: "quiet" }, `${counted(changes.length, "sentence")} changed, of ${game.diff.length}`)),
    h("div", { class: "note" }, h("div", { class: "title first" }, "Source note"), h("div", { class: "title" }, game.opponent === "fresh" ? "Attacked note, which the assessor read" : game.opponent === "archive" ? "Archived attack, which the assessor read" : `Note of ${words(game.opponent)}, which the assessor read`), cells));
}

function costsOf(turn) {
  return h("p", { class: "costs num" },
    h("span", null, `${figure(turn.prompt_tokens)} prompt tokens`), h("span", null, `${figure(turn.response_tokens)} response tokens`),
    h("span", null, `${figure(turn.seconds)} s`),
    turn.nll === null ? null : h("span", { title: "mean negative log-probability of the sampled tokens" }, `${figure(turn.nll)} nats per token`));
}

function turnOf(game, turn, title, outcome, identified, terms) {
  const kind = turn.outcome === "win" ? "good" : turn.outcome === "loss" ? "bad" : "even";
  const head = h("h3", null, title,
    outcome ? h("span", { class: `badge ${GLYPHS[outcome]?.[1] ?? ""}` }, OUTCOME_WORDS[outcome] ?? outcome) : null,
    game.unscored === null ? h("span", { class: `badge ${kind}` }, `${words(turn.outcome)}, reward ${signed(turn.reward)}`) : null,
    turn.trained ? null : h("span", { class: "badge" }, "not trained"));
  const said_ = [];
  if (turn.violation !== null) said_.push(h("p", { class: "said" }, h("strong", null, "Broken format: "), said(turn.violation, terms)));
  if (turn.role === "assessor" && turn.violation === null) {
    const place = turn.sentence_id === null ? "" : `, sentence ${turn.sentence_id}`;
    said_.push(h("p", { class: "said" }, "Says ", h("strong", null, said(turn.classification ?? "–"), place),
      typeof identified !== "boolean" || game.labels?.error_present !== true || turn.classification !== "Harmful" ? null : identified ? " – names the error" : " – does not name the error"));
    const pointed = turn.sentence_id === null ? null : game.note?.[turn.sentence_id];
    if (pointed !== null && pointed !== undefined && turn.correction !== null) {
      said_.push(h("div", { class: "quiet" }, "Its correction of that sentence"), h("blockquote", { dir: "auto" }, turn.correction_diff ? diffed(turn.correction_diff, "both", terms) : said(turn.correction, terms)));
    } else {
      if (pointed === undefined && turn.sentence_id !== null) said_.push(h("p", { class: "quiet" }, "The note has no such sentence."));
      if (pointed !== null && pointed !== undefined) said_.push(h("blockquote", { dir: "auto" }, said(pointed, terms)));
      if (turn.correction !== null) said_.push(h("div", { class: "quiet" }, "Its correction"), h("blockquote", { dir: "auto" }, said(turn.correction, terms)));
    }
  }
  if (turn.role === "attacker" && turn.answer !== null) said_.push(h("blockquote", { dir: "auto" }, said(turn.answer, terms)));
  const has = (text) => terms.some((term) => (text ?? "").toLowerCase().includes(term));
  const shown = [turn.reasoning, turn.answer, turn.correction, turn.violation];
  return h("section", { class: `turn ${turn.role}` }, head, said_,
    fold("Reasoning", turn.reasoning, terms, has(turn.reasoning)),
    fold("Response as written", turn.response, terms, turn.violation !== null || (has(turn.response) && !shown.some(has))),
    fold("Prompt", turn.prompt), costsOf(turn));
}

function yesNo(value) {
  return value === null || value === undefined ? "undecided" : value ? "yes" : "no";
}

function labelsOf(game, terms) {
  const labels = game.labels;
  if (!labels) return h("section", null, h("h3", null, "Labels"), h("p", { class: "quiet" }, game.forfeit ? "None: a forfeit is decided without the judge." : ["None: the judge gave no verdict, so nothing of this game was trained. ", said(game.unscored, terms)]));
  const probability = (p) => (p === null || p === undefined ? h("td", { class: "quiet" }, "–") : h("td", { class: "num" },
    h("meter", { min: "0", max: "1", value: String(p), "aria-hidden": "true" }), p.toFixed(3)));
  const several = labels.error_identified.length > 1;
  const rows = [["Does the note hold an error?", labels.error_present, labels.p_error_present],
    ...labels.error_identified.map((value, i) => [`Does ${several ? `assessor ${i + 1}` : "the assessor"} name it?`, value, labels.p_error_identified[i]]),
    ["Could a clinician have written it?", labels.realistic, labels.p_realistic]];
  const asked = labels.source !== "gold" && labels.source !== "archive";
  const source = asked ? ["by the judge ", said(labels.source)]
    : labels.source === "gold" ? "by gold: MEDEC's annotation decides, the judge is not asked"
      : "kept from the game in which the attack was written";
  const cost = game.judge;
  const unknown = (i, value) => (i === rows.length - 1 && value === null ? "not asked" : yesNo(value));
  return h("section", null, h("h3", null, "Labels", h("span", { class: "quiet" }, source)),
    h("table", { class: "labels" }, h("thead", null, h("tr", null, ["question", "label", "P(yes)"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, rows.map(([question, value, p], i) => h("tr", null, h("th", { scope: "row" }, question), h("td", null, h("strong", null, unknown(i, value))), probability(p))))),
    asked ? h("p", { class: "costs num" }, h("span", null, `${figure(cost.seconds)} s`), cost.cached ? h("span", null, "verdict from the cache") : h("span", null, `batch of ${cost.batch_size}`),
      cost.prompt_tokens ? h("span", null, `${figure(cost.prompt_tokens)} prompt tokens`) : null,
      cost.cached_tokens !== null ? h("span", null, `${figure(cost.cached_tokens)} of them cached`) : null,
      cost.output_tokens ? h("span", null, `${figure(cost.output_tokens)} output tokens`) : null) : null);
}

// A game as the run logged it, without what the report added.
function recordOf(game) {
  const { diff: _, ...record } = game;
  record.turns = game.turns.map(({ correction_diff: __, ...turn }) => turn);
  return record;
}

async function renderGame(i) {
  const game = await gameOf(i);
  if (opened !== i) return;
  const { column } = games;
  const terms = termsOf(filters.q);
  const outcomes = column.outcomes[i].map((code) => games.outcomes[code]);
  const assessors = assessorsOf(game);
  const place = listed.indexOf(i);
  let assessor = 0;
  const turns = game.turns.map((turn) => {
    if (turn.role !== "assessor") return turnOf(game, turn, "Attacker", game.forfeit ? "forfeit" : null, null, terms);
    const n = assessor++;
    return turnOf(game, turn, assessors.length > 1 ? `Assessor ${n + 1} of ${assessors.length}` : "Assessor", outcomes[n], game.labels?.error_identified[n], terms);
  });
  const record = recordOf(game);
  const source = h("details", { toggle: (event) => {
    const box = event.currentTarget;
    if (box.open && !box.querySelector("pre")) box.append(h("pre", { tabindex: "0" }, said(JSON.stringify(record, null, 2))));
  } }, h("summary", null, "The record as JSON"));
  const button = (text, title, click, disabled = false) => h("button", { type: "button", title, click, disabled }, text);
  const title = outcomes.length === 1 ? OUTCOME_WORDS[outcomes[0]] : new Set(outcomes).size === 1 ? `${OUTCOME_WORDS[outcomes[0]]} by all ${outcomes.length}` : "Assessors disagree";
  document.getElementById("game").replaceChildren(
    h("div", { class: "game-head" }, h("h2", null, title, outcomes.length > 1 || outcomes[0] === "forfeit" ? [badges(column.outcomes[i]), game.forfeit ? h("span", { class: "badge" }, words(game.forfeit)) : null] : null),
      h("div", { class: "tools" }, h("span", { id: "hits", class: "quiet", role: "status" }),
        h("span", { class: "back" }, button("← List", "back to the list (Esc)", closeGame)),
        button("↑", "previous game (k)", () => moveTo(place - 1, true), place <= 0),
        button("↓", "next game (j)", () => moveTo(place + 1, true), place < 0 || place >= listed.length - 1),
        button("Unfold all", "unfold or fold everything (e)", toggleFolds),
        button("Copy JSON", "copy the record", (event) => copy(JSON.stringify(record, null, 2), event.currentTarget)))),
    h("div", { class: "crumbs num" },
      DATA.runs.length > 1 ? h("span", null, said(DATA.runs[column.run[i]].name)) : null,
      h("span", null, `${PARTS[column.partition[i]]}, step ${column.step[i]}${game.step === column.step[i] ? "" : `, started for step ${game.step}`}`),
      h("span", null, words(game.game_type)), h("span", null, said(words(game.error_type), terms)), h("span", null, "case ", said(game.case_id, terms)),
      game.opponent === "fresh" ? null : h("span", null, game.opponent === "archive" ? "archived attack" : `opponent ${words(game.opponent)}`),
      h("span", null, `rollout ${game.session}`), h("span", null, h("a", { href: address("games", column.id[i], EMPTY) }, said(column.id[i], terms)))),
    relatedTo(i), notesOf(game, outcomes, terms), ...turns, labelsOf(game, terms), groupOf(i), h("section", null, source));
  hit = -1;
}

function toggleFolds() {
  const folds = [...document.querySelectorAll("#game details")];
  const open = folds.some((one) => !one.open);
  for (const one of folds) one.open = open;
}

let hit = -1;

// Goes to the next place of the open game where a word of the search stands, or to the one before.
function nextHit(by) {
  const marks = [...document.querySelectorAll("#game mark")];
  if (!marks.length) return;
  marks[hit]?.classList.remove("here");
  hit = hit < 0 && by < 0 ? marks.length - 1 : (hit + by + marks.length) % marks.length;
  for (let box = marks[hit].closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  marks[hit].classList.add("here");
  marks[hit].scrollIntoView({ block: "center" });
  document.getElementById("hits").textContent = `hit ${hit + 1} of ${marks.length}`;
}

async function copy(text, button) {
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here; see the end";
  }
  setTimeout(() => { button.textContent = before; }, 2000);
}
