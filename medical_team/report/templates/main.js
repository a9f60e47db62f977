// Views, keys, the address and printing.

const VIEWS = ["overview", "curves", "games", "config"];
const PRINTED = 500;
const narrowWindow = matchMedia("(max-width: 60rem)");
let view = "overview";
let ready = false;
let chartsShown = null;

function showView(name) {
  view = VIEWS.includes(name) ? name : "overview";
  for (const one of VIEWS) document.getElementById(one).classList.toggle("current", one === view);
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (view === "curves") {
    chartsShown ??= showCharts();
    redraw();
  }
  if (view === "games" && ready) drawRows(true);
}

// Charts that are not in view have no width to be drawn at.
let widthDrawn = innerWidth;
function redraw() {
  if (view !== "curves" || innerWidth === widthDrawn) return;
  widthDrawn = innerWidth;
  cards.filter((state) => state.drawn).forEach((state) => state.draw());
}

function go(target, replace = false) {
  history[replace ? "replaceState" : "pushState"](null, "", target);
}

function openGame(i, remember = true) {
  const was = opened;
  document.querySelector("#count strong")?.remove();
  opened = i;
  document.querySelector(".panes").classList.add("open");
  document.body.classList.add("games-open");
  if (remember) go(address("games", games.column.id[i]), was !== null);
  for (const [place, node] of drawn) {
    node.setAttribute("aria-selected", String(listed[place] === i));
    node.classList.toggle("active", place === active);
  }
  const pane = document.getElementById("game");
  pane.scrollTop = 0;
  if (narrowWindow.matches) window.scrollTo(0, 0);
  renderGame(i);
}

function closeGame(remember = true) {
  if (opened === null) return;
  opened = null;
  document.querySelector(".panes").classList.remove("open");
  document.body.classList.remove("games-open");
  if (remember) go(address("games", null));
  hint();
  drawRows(true);
  document.getElementById("list").focus({ preventScroll: true });
}

function hint() {
  document.getElementById("game").replaceChildren(h("p", { class: "hint" },
    games.count ? ["Choose a game, or press ", h("kbd", null, "Enter"), " and then ", h("kbd", null, "j"), ". ", h("kbd", null, "?"), " shows all keys."] : "Games will be listed here."));
}

function setFilters(change) {
  filters = { ...filters, ...change };
  showFilters();
  go(address("games", opened === null ? null : games.column.id[opened]));
  applyFilters(showList);
}

function restore() {
  const wanted = fromAddress();
  showView(wanted.view);
  if (!ready) return;
  filters = wanted.filters;
  showFilters();
  const index = wanted.game === null ? undefined : games.byId.get(wanted.game);
  if (index !== undefined) openGame(index, false);
  else closeGame(false);
  applyFilters(showList).then(() => {
    if (index !== undefined) renderGame(index);
    if (wanted.game !== null && index === undefined) {
      document.getElementById("count").append(h("strong", null, "No game ", said(wanted.game), " is in this page."));
    }
  });
}

let typing = 0;
function changed() {
  showFilters();
  go(address("games", opened === null ? null : games.column.id[opened]), true);
  clearTimeout(typing);
  typing = setTimeout(() => applyFilters(showList), filters.q ? 180 : 0);
}

function inField(node) {
  return node.matches?.("input, select, textarea");
}

const KEYS = {
  "/": () => {
    showGames();
    document.getElementById("filter-q")?.focus();
  },
  "?": () => document.getElementById("help").showModal(),
  j: () => step(1),
  k: () => step(-1),
  ArrowDown: () => step(1),
  ArrowUp: () => step(-1),
  PageDown: () => step(8),
  PageUp: () => step(-8),
  Home: () => moveTo(0, opened !== null),
  End: () => moveTo(listed.length - 1, opened !== null),
  Enter: () => active >= 0 && openGame(listed[active]),
  e: toggleFolds,
  n: () => nextHit(1),
  N: () => nextHit(-1),
  x: () => setFilters(EMPTY),
  Escape: () => closeGame(),
};
const ANYWHERE = new Set(["/", "?"]);
const IN_LIST = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End", "Enter"]);

function showGames() {
  if (view === "games") return;
  go(address("games", opened === null ? null : games.column.id[opened]));
  showView("games");
}

function step(by) {
  moveTo(active + by, opened !== null);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || document.getElementById("help").open) return;
  if (inField(event.target)) {
    if (event.key === "Escape") {
      event.target.blur();
      if (view === "games") document.getElementById("list").focus();
    }
    return;
  }
  const number = VIEWS[Number(event.key) - 1];
  if (number) {
    go(address(number, number === "games" && opened !== null ? games.column.id[opened] : null));
    showView(number);
    return;
  }
  const act = KEYS[event.key];
  if (!act || (!ANYWHERE.has(event.key) && (view !== "games" || !ready))) return;
  // Arrows and Enter keep their usual meaning outside of the list: they scroll the game, press a button.
  if (IN_LIST.has(event.key) && !(event.target === document.body || event.target.id === "list")) return;
  event.preventDefault();
  act();
});

// A printed page has no list to scroll in: what the filters leave is printed as a table.
function preparePrint() {
  drawAll();
  for (const reasoning of document.querySelectorAll("#game .turn details.reasoning")) reasoning.open = true;
  const printed = document.getElementById("printed");
  printed.replaceChildren();
  if (opened !== null || !ready || !listed.length) return;
  const { column } = games;
  const rows = listed.slice(0, PRINTED);
  printed.append(
    h("h2", null, `Games: ${rows.length.toLocaleString("en")} of ${counted(listed.length, "game")}`),
    h("table", null, h("thead", null, h("tr", null, ["outcome", "step", "game type", "error type", "case", "attacker", "assessor", "text"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", null, rows.map((i) => h("tr", null, [
        column.outcomes[i].map((code) => games.outcomes[code]).join(", "), `${column.partition[i]} ${column.step[i]}`, words(column.type[i]), words(column.error[i]),
        column.case[i], signed(column.attacker[i]), signed(column.assessor[i]), column.preview[i],
      ].map((cell) => h("td", null, said(cell))))))));
}
addEventListener("beforeprint", preparePrint);

async function start() {
  document.documentElement.classList.add("js");
  restore();
  const button = document.getElementById("help-button");
  button.addEventListener("click", KEYS["?"]);
  document.querySelector("[data-skip]").addEventListener("click", () => setTimeout(() => document.getElementById("list").focus()));
  if (!("DecompressionStream" in window)) {
    const notice = document.getElementById("unsupported");
    notice.textContent = "This browser cannot unpack the games and curves: it lacks DecompressionStream (Chrome 80, Firefox 113, Safari 16.4 or later have it).";
    notice.hidden = false;
    return;
  }
  addEventListener("popstate", restore);
  await loadColumns();
  buildFilters(changed);
  const list = document.getElementById("list");
  let waiting = false;
  list.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      drawRows();
    });
  }, { passive: true });
  addEventListener("resize", () => {
    drawRows();
    redraw();
  });
  ready = true;
  hint();
  restore();
  document.documentElement.dataset.ready = "true";
  // Printing cannot wait for a block to be unpacked, so the charts are there before anyone asks.
  requestAnimationFrame(() => setTimeout(() => { chartsShown ??= showCharts(); }));
}

start();
