// Curves: one card a chart, drawn when it comes into view.

const METRICS = { runs: [] };
const SMOOTHING = { none: 0, some: 0.6, much: 0.9 };
const hiddenSeries = new Set();
const cards = [];
let smoothing = 0;

function colour(series, index) {
  if (/(^|[^a-z])attacker([^a-z]|$)/.test(series.key) && series.label.startsWith("attacker")) return "var(--attacker)";
  if (/(^|[^a-z])assessor([^a-z]|$)/.test(series.key) && series.label.startsWith("assessor")) return "var(--assessor)";
  return `var(--c${index % 8})`;
}

function dash(index, run) {
  if (run) return "6 4";
  return index >= 8 ? "1.5 3" : null;
}

function points(run, key) {
  const { steps, values } = METRICS.runs[run];
  const found = [];
  (values[key] ?? []).forEach((value, i) => {
    if (value !== null) found.push([steps[i], value]);
  });
  return found;
}

// Exponential moving average, as TensorBoard draws it; its start is not pulled to zero.
function smooth(line) {
  if (!smoothing || line.length < 3) return line;
  let last = 0;
  return line.map(([step, value], i) => {
    last = last * smoothing + (1 - smoothing) * value;
    return [step, last / (1 - smoothing ** (i + 1))];
  });
}

// Of many points only the extremes of each pixel are drawn.
function thinned(line, width) {
  const size = Math.ceil(line.length / width);
  if (size <= 2) return line;
  const found = [];
  for (let i = 0; i < line.length; i += size) {
    const part = line.slice(i, i + size);
    const low = part.reduce((a, b) => (b[1] < a[1] ? b : a));
    const high = part.reduce((a, b) => (b[1] > a[1] ? b : a));
    found.push(...(low[0] <= high[0] ? [low, high] : [high, low]));
  }
  return found;
}

function ticks(low, high, wanted) {
  const span = high - low || 1;
  const rough = span / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(10)));
  return found;
}

function card(chart) {
  const several = DATA.runs.length > 1;
  const lines = chart.series.flatMap((series, index) =>
    DATA.runs.map((_, run) => ({ series, index, run, raw: points(run, series.key) })).filter((line) => line.raw.length),
  );
  if (!lines.length) return null;
  const plot = h("div", {
    class: "plot", tabindex: "0", role: "img",
    "aria-label": `${chart.title}: ${counted(lines.length, "line")}; arrow keys read the figures, Enter then shows the games of that step; or open the table`,
  });
  const at = h("p", { class: "at", "aria-live": "polite" });
  const legend = h("div", { class: "legend" });
  const outputs = new Map();
  const state = { chart, plot, lines, at: null, drawn: false };
  const steps = [...new Set(lines.flatMap((line) => line.raw.map(([step]) => step)))].sort((a, b) => a - b);

  chart.series.forEach((series, index) => {
    const own = lines.filter((line) => line.series === series);
    if (!own.length) return;
    const output = h("output");
    outputs.set(series, output);
    const name = `${chart.name}/${series.key}`;
    const sample = svg("svg", { width: "18", height: "8", "aria-hidden": "true" },
      svg("line", { x1: "0", x2: "18", y1: "4", y2: "4", stroke: colour(series, index), "stroke-width": "3", "stroke-dasharray": dash(index, 0) }));
    legend.append(h("button", {
      type: "button", "aria-pressed": String(!hiddenSeries.has(name)), title: series.key,
      click: (event) => {
        const gone = !hiddenSeries.delete(name);
        if (gone) hiddenSeries.add(name);
        event.currentTarget.setAttribute("aria-pressed", String(!gone));
        draw();
      },
    }, sample, h("span", null, said(series.label)), output));
  });

  function read() {
    const marks = DATA.runs.flatMap((run, i) => run.alarms.filter((mark) => state.at !== null && mark.first <= state.at && state.at <= mark.last)
      .map((mark) => `${several ? `${i ? "compared" : "first"}: ` : ""}alarm ${words(mark.name)}: ${mark.reason}`));
    at.replaceChildren(...said(state.at === null ? "latest figures" : [`step ${state.at}`, ...marks].join(" · ")));
    for (const [series, output] of outputs) {
      const shown = DATA.runs.map((_, run) => {
        const raw = lines.find((line) => line.series === series && line.run === run)?.raw ?? [];
        const found = state.at === null ? raw.at(-1) : raw.find(([step]) => step === state.at);
        return found ? figure(found[1]) : "–";
      });
      output.textContent = shown.join(" / ");
    }
  }

  function draw() {
    state.drawn = true;
    const width = Math.max(280, Math.min(900, plot.clientWidth || 560));
    const height = 210;
    const room = { left: 44, right: 10, top: 14, bottom: 24 };
    const seen = lines.filter((line) => !hiddenSeries.has(`${chart.name}/${line.series.key}`));
    const values = seen.flatMap((line) => line.raw.map(([, value]) => value));
    let low = Math.min(...extremes(values, Math.min), chart.bounds[0] ?? Infinity);
    let high = Math.max(...extremes(values, Math.max), chart.bounds[1] ?? -Infinity);
    if (!values.length) [low, high] = [chart.bounds[0] ?? 0, chart.bounds[1] ?? 1];
    if (high - low < 1e-12) [low, high] = chart.bounds[0] === 0 && low === 0 ? [0, 1] : [low - Math.abs(low || 1) / 2, high + Math.abs(high || 1) / 2];
    if (chart.bounds[0] === null) low -= (high - low) * 0.05;
    if (chart.bounds[1] === null) high += (high - low) * 0.05;
    const first = steps[0];
    const last = steps.at(-1) === first ? first + 1 : steps.at(-1);
    const x = (step) => room.left + ((step - first) / (last - first)) * (width - room.left - room.right);
    const y = (value) => height - room.bottom - ((value - low) / (high - low)) * (height - room.top - room.bottom);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });

    for (const tick of ticks(low, high, 4)) {
      picture.append(svg("line", { class: tick === 0 ? "zero" : "grid", x1: room.left, x2: width - room.right, y1: y(tick), y2: y(tick) }));
      picture.append(svg("text", { x: room.left - 7, y: y(tick) + 4, "text-anchor": "end" }, figure(tick)));
    }
    for (const tick of ticks(first, last, width / 90).filter(Number.isInteger)) {
      picture.append(svg("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, figure(tick)));
    }
    DATA.runs.forEach((run, number) => run.alarms.forEach((mark) => {
      if (mark.last < first || mark.first > last) return;
      const [from, to] = [x(Math.max(mark.first, first)), x(Math.min(mark.last, last))];
      picture.append(svg("rect", { class: "alarm-area", x: from, y: room.top, width: Math.max(0, to - from), height: height - room.top - room.bottom }));
      picture.append(svg("line", { class: "alarm", "stroke-dasharray": dash(0, number), x1: from, x2: from, y1: room.top, y2: height - room.bottom }));
      picture.append(svg("path", { class: "alarm-sign", d: `M${from - 5} ${room.top - 10}h10l-5 9z` }, svg("title", null, `alarm ${words(mark.name)}, step ${mark.first}: ${mark.reason}`)));
    }));
    for (const line of seen) {
      const stroke = { stroke: colour(line.series, line.index), "stroke-dasharray": dash(line.index, line.run) };
      const path = (data, extra) => {
        const d = thinned(data, width).map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
        picture.append(svg("path", { class: `line ${extra}`, d, ...stroke }));
      };
      if (smoothing) path(line.raw, "faint");
      path(smooth(line.raw), "");
      if (line.raw.length <= 24) {
        for (const [step, value] of line.raw) picture.append(svg("circle", { cx: x(step), cy: y(value), r: 2.4, fill: stroke.stroke }));
      }
    }
    const cross = svg("line", { class: "cross", x1: 0, x2: 0, y1: room.top, y2: height - room.bottom, visibility: "hidden" });
    picture.append(cross);
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const wanted = first + (((event.clientX - box.left) / box.width) * width - room.left) / (width - room.left - room.right) * (last - first);
      point(steps.reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a)));
    });
    picture.addEventListener("pointerleave", () => point(null));
    // A finger reads the figures by tapping, so only a mouse leaves the chart.
    picture.addEventListener("click", (event) => event.pointerType !== "touch" && toGames());
    state.point = point;
    function point(step) {
      if (state.at === step) return;
      state.at = step;
      cross.setAttribute("visibility", step === null ? "hidden" : "visible");
      if (step !== null) {
        cross.setAttribute("x1", x(step));
        cross.setAttribute("x2", x(step));
      }
      read();
    }
    plot.replaceChildren(picture);
    state.at = null;
    read();
  }

  // The games of the step that is read: those of validation where all lines are validation's.
  function toGames() {
    const part = chart.series.every((series) => /^(val|games\/val)/.test(series.key)) ? "val" : "train";
    const there = (i) => games.column.step[i] === state.at && games.column.partition[i] === part;
    if (state.at === null || !games.column.id?.some((_, i) => there(i))) return;
    const step = String(state.at);
    go(address("games", null, { ...EMPTY, part, from: step, to: step }));
    restore();
  }

  plot.addEventListener("keydown", (event) => {
    if (event.key === "Enter") toGames();
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const now = state.at === null ? (move > 0 ? -1 : steps.length) : steps.indexOf(state.at);
    state.point(steps[Math.max(0, Math.min(steps.length - 1, now + move))]);
  });
  plot.addEventListener("blur", () => state.point?.(null));
  state.draw = draw;

  const table = h("details", {
    toggle: (event) => {
      if (!event.currentTarget.open || event.currentTarget.querySelector("table")) return;
      const heads = lines.map((line) => line.series.label + (several ? (line.run ? " (compared)" : " (first)") : ""));
      const maps = lines.map((line) => new Map(line.raw));
      event.currentTarget.append(h("div", { class: "scroll", tabindex: "0" }, h("table", { class: "figures" },
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "step"), heads.map((head) => h("th", { scope: "col" }, said(head))))),
        h("tbody", null, steps.map((step) => h("tr", null, h("th", { scope: "row" }, String(step)), maps.map((map) => h("td", null, figure(map.get(step)))))))))); 
    },
  }, h("summary", null, "Figures"));

  const unit = chart.unit ? h("span", { class: "quiet" }, ` in ${chart.unit}`) : null;
  state.node = h("figure", { class: "chart" }, h("h4", null, said(chart.title), unit),
    chart.help ? h("p", { class: "help" }, chart.help) : null, plot, at, legend, table);
  state.words = [chart.title, ...chart.series.flatMap((series) => [series.key, series.label])].join("\n").toLowerCase();
  return state;
}

// Not Math.min(...values): a long run has more figures than a call takes arguments.
function extremes(values, which) {
  return values.length ? [values.reduce((a, b) => which(a, b))] : [];
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    watcher.unobserve(entry.target);
    cards.find((state) => state.plot === entry.target)?.draw();
  }
}, { rootMargin: "600px" });

function addCard(chart, into) {
  const state = card(chart);
  if (!state) return null;
  cards.push(state);
  into.append(state.node);
  watcher.observe(state.plot);
  return state;
}

async function showCharts() {
  METRICS.runs = await unpack("metrics");
  const into = document.getElementById("charts");
  const bar = document.getElementById("curve-bar");
  const keys = [...new Set(METRICS.runs.flatMap((run) => Object.keys(run.values)))].sort();
  if (!keys.length) {
    into.append(h("p", { class: "none" }, "There are no figures to draw yet: this run has neither metrics nor games."));
    return;
  }
  const jump = h("div", { class: "jump" });
  const find = h("input", { type: "search", id: "find-metric", placeholder: "part of a name", input: () => narrow(find.value) });
  const choose = h("select", { id: "smoothing", change: () => {
    smoothing = SMOOTHING[choose.value];
    cards.filter((state) => state.drawn).forEach((state) => state.draw());
  } }, Object.keys(SMOOTHING).map((name) => h("option", { value: name }, name)));
  bar.append(jump, h("label", null, "Smoothing", choose), h("label", null, "Find", find));
  if (DATA.runs.length > 1) {
    into.append(h("p", { class: "runs quiet" }, "Solid: ", said(DATA.runs[0].name), " (first). Dashed: ", said(DATA.runs[1].name), " (compared). Figures in the legends: first / compared."));
  }
  into.append(h("p", { class: "none", id: "no-chart", hidden: true }, "No chart has these words. Any other metric can be chosen below."));
  for (const group of DATA.groups) {
    const head = h("h2", { id: `group-${group.name}` }, group.title);
    const grid = h("div", { class: "charts" });
    group.charts.forEach((chart) => addCard(chart, grid));
    if (!grid.children.length) continue;
    into.append(h("div", { class: "group" }, head, grid));
    jump.append(h("button", { type: "button", click: () => head.scrollIntoView() }, group.title));
  }
  const grid = h("div", { class: "charts" });
  const any = h("select", { id: "any-metric", change: () => {
    if (any.value) addCard({ name: `any-${any.value}`, title: any.value, unit: "", help: "", bounds: [null, null], series: [{ key: any.value, label: "value" }] }, grid);
    any.value = "";
  } }, h("option", { value: "" }, "choose…"), keys.map((key) => h("option", { value: key }, key)));
  into.append(h("div", { class: "group any" }, h("h2", null, "Any other metric"), h("div", { class: "bar" }, h("label", null, `One of ${keys.length}`, any)), grid));
}

function narrow(text) {
  const terms = termsOf(text);
  for (const state of cards) state.node.hidden = !terms.every((term) => state.words.includes(term));
  for (const group of document.querySelectorAll("#charts .group:not(.any)")) {
    group.hidden = ![...group.querySelectorAll(".chart")].some((node) => !node.hidden);
  }
  document.getElementById("no-chart").hidden = cards.some((state) => !state.node.hidden);
}

function drawAll() {
  for (const state of cards) if (!state.drawn) state.draw();
}
