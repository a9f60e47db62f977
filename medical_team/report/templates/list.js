// The list: only the rows in view are in the document, however many games there are.

const ROW = 78;
const GLYPHS = {
  found: ["✓", "good"], passed: ["✓", "good"], "wrong sentence": ["≈", "even"], missed: ["✗", "bad"],
  "false alarm": ["!", "bad"], "broken format": ["⌀", "bad"], undecided: ["?", "even"], forfeit: ["–", ""], unscored: ["∅", ""],
};
const drawn = new Map();
let active = -1; // place in the list
let opened = null; // index of the game

function badges(codes) {
  const counts = new Map();
  for (const code of codes) counts.set(code, (counts.get(code) ?? 0) + 1);
  return [...counts].map(([code, count]) => {
    const name = games.outcomes[code];
    const [glyph, kind] = GLYPHS[name] ?? ["", ""];
    return h("span", { class: `badge ${kind}` }, h("span", { "aria-hidden": "true" }, glyph), codes.length > 1 ? `${count} ${name}` : name);
  });
}

function short(reward) {
  return signed(Math.round(reward * 100) / 100);
}

function rewardsOf(i) {
  const { attacker, assessor } = games.column;
  return [
    attacker[i] === null ? null : `attacker ${short(attacker[i])}`,
    assessor[i] === null ? null : `assessor ${short(assessor[i])}`,
  ].filter(Boolean).join(" · ");
}

function listRow(place) {
  const i = listed[place];
  const { column } = games;
  const kind = [words(column.type[i]), words(column.error[i]), column.opponent[i] === "fresh" ? null : words(column.opponent[i])];
  const node = h("div", {
    class: "row", role: "option", id: `row-${place}`, "aria-selected": String(i === opened),
    "aria-posinset": place + 1, "aria-setsize": listed.length,
    click: () => {
      active = place;
      openGame(i);
    },
  },
  h("div", { class: "line" }, badges(column.outcomes[i]), h("span", { class: "num" },
    `${DATA.runs.length > 1 ? (column.run[i] ? "compared, " : "first, ") : ""}${column.partition[i] === "train" ? "" : `${PARTS[column.partition[i]]}, `}step ${column.step[i]}`)),
  h("div", { class: "preview", dir: "auto" }, said(column.preview[i], termsOf(filters.q))),
  h("div", { class: "line" }, h("span", { class: "what" }, said(kind.filter(Boolean).join(" · "))), h("span", { class: "num" }, rewardsOf(i))));
  node.classList.toggle("active", place === active);
  node.style.transform = `translateY(${place * ROW}px)`;
  return node;
}

function drawRows(again = false) {
  const list = document.getElementById("list");
  const rows = document.getElementById("rows");
  if (again) {
    rows.replaceChildren();
    drawn.clear();
    rows.style.height = `${listed.length * ROW}px`;
  }
  const from = Math.max(0, Math.floor(list.scrollTop / ROW) - 6);
  const to = Math.min(listed.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW) + 6);
  for (const [place, node] of drawn) {
    if (place < from || place >= to) {
      node.remove();
      drawn.delete(place);
    }
  }
  const added = document.createDocumentFragment();
  for (let place = from; place < to; place++) {
    if (!drawn.has(place)) {
      const node = listRow(place);
      drawn.set(place, node);
      added.append(node);
    }
  }
  rows.append(added);
  const there = drawn.get(active);
  if (there) list.setAttribute("aria-activedescendant", there.id);
  else list.removeAttribute("aria-activedescendant");
}

function moveTo(place, open = false) {
  if (!listed.length) return;
  active = Math.max(0, Math.min(listed.length - 1, place));
  const list = document.getElementById("list");
  const top = active * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  if (open) openGame(listed[active]);
  drawRows(true);
}

function showList(done, share = 1) {
  const place = opened === null ? -1 : listed.indexOf(opened);
  active = place >= 0 ? place : listed.length ? 0 : -1;
  const list = document.getElementById("list");
  if (place >= 0) list.scrollTop = Math.max(0, place * ROW - list.clientHeight / 3);
  else list.scrollTop = 0;
  drawRows(true);
  const on = Object.keys(EMPTY).filter((name) => name !== "sort" && name !== "role" && filters[name] !== EMPTY[name]);
  const chips = ["case", "row", "attack"].filter((name) => filters[name]).map((name) => h("button", {
    type: "button", title: "take this filter away", click: () => setFilters({ [name]: "" }),
  }, `${name} `, said(filters[name].slice(0, 24)), " ×"));
  const text = listed.length === games.count ? counted(games.count, "game") : `${listed.length.toLocaleString("en")} of ${counted(games.count, "game")}`;
  document.getElementById("count").replaceChildren(
    h("span", null, games.count ? text : "There are no games in this run's log yet.", done ? "" : `, searching… ${Math.round(share * 100)} %`),
    ...chips,
    ...(on.length ? [h("button", { type: "button", click: () => setFilters(EMPTY) }, "Take all filters away")] : []),
    ...(done && listed.length ? [h("button", { type: "button", id: "download", title: "their records as JSON lines, as the run logged them", click: (event) => download(event.currentTarget) }, "Download them")] : []),
  );
  const toggle = document.getElementById("toggle-fields");
  if (toggle) toggle.textContent = on.length ? `Filters (${on.length})` : "Filters";
}

let downloading = false;

// The records of the listed games, a line each, as they were played: in another order each block would be unpacked again and again.
async function download(button) {
  if (downloading) return;
  downloading = true;
  const lines = [];
  const wanted = [...listed].sort((a, b) => a - b);
  try {
    for (const [place, i] of wanted.entries()) {
      lines.push(`${JSON.stringify(recordOf(await gameOf(i)))}\n`);
      if (place % games.perBlock === 0) button.textContent = `Downloading… ${Math.round((100 * place) / wanted.length)} %`;
    }
    const link = h("a", { href: URL.createObjectURL(new Blob(lines, { type: "application/jsonl" })), download: "games.jsonl" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    button.textContent = "Downloaded";
  } catch (error) {
    button.textContent = `Not downloaded: ${error.message}`;
  } finally {
    downloading = false;
  }
}
