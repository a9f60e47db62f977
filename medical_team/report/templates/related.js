// What a game stands beside: the other rollouts of its row, and links to the games of its case and attack.

function originOf(i) {
  const { attack, opponent } = games.column;
  if (!attack[i] || opponent[i] !== "archive") return null;
  const first = games.column.attack.findIndex((name, at) => name === attack[i] && opponent[at] === "fresh" && games.column.run[at] === games.column.run[i]);
  return first < 0 ? null : first;
}

function relatedTo(i) {
  const { column } = games;
  const run = DATA.runs.length > 1 ? String(column.run[i]) : "";
  const link = (text, change) => h("a", { href: address("games", null, { ...EMPTY, run, ...change }) }, text);
  const same = (name) => column[name].reduce((count, value, at) => count + (value === column[name][i] && column.run[at] === column.run[i]), 0);
  const rows = same("uid");
  const cases = same("case");
  const attacks = column.attack[i] ? same("attack") : 0;
  const origin = originOf(i);
  return h("nav", { class: "related", "aria-label": "Related games" },
    origin !== null ? h("a", { href: address("games", column.id[origin]) }, `the game in which step ${column.step[origin]} wrote this attack`) : null,
    rows > 1 ? link(`${rows} games of this row`, { row: column.uid[i] }) : null,
    attacks > 1 ? link(`${attacks} games with this attack`, { attack: column.attack[i] }) : null,
    cases > 1 ? link(`${cases} games of this case`, { case: column.case[i] }) : null);
}

function meanOf(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// The rollouts that were played of one row in one step: what group-relative advantages compare. Where several assessors read
// each attack, they are compared with each other instead.
function groupOf(i) {
  const { column } = games;
  const own = (at) => ["run", "step", "uid"].every((name) => column[name][at] === column[name][i]);
  const found = column.id.map((_, at) => at).filter(own).sort((a, b) => column.session[a] - column.session[b]);
  if (found.length < 2) return null;
  const roles = ["attacker", "assessor"].filter((role) => found.some((at) => column[role][at] !== null));
  const compared = roles.filter((role) => role === "attacker" || found.every((at) => column.outcomes[at].length === 1));
  const rewards = (role) => found.map((at) => column[role][at]).filter((value) => value !== null);
  const equal = DATA.sampled ? [] : compared.filter((role) => rewards(role).length > 1 && new Set(rewards(role)).size === 1);
  const alike = new Set(found.map((at) => column.preview[at])).size === 1;
  const heads = ["rollout", "outcome", ...(alike ? [] : ["what was read"]), ...roles.flatMap((role) => (compared.includes(role) ? [role, "vs mean"] : ["assessors, mean"]))];
  return h("section", null, h("details", { class: "group", open: !narrowWindow.matches }, h("summary", null, `The ${found.length} rollouts of this row`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Rollouts of this row" }, h("table", { class: "figures rollouts" },
      h("thead", null, h("tr", null, heads.map((head) => h("th", { scope: "col", class: /^(outcome|what)/.test(head) ? "words" : null }, head)))),
      h("tbody", null, found.map((at) => h("tr", { "aria-current": at === i ? "true" : null },
        h("th", { scope: "row" }, at === i ? String(column.session[at]) : h("a", { href: address("games", column.id[at]) }, String(column.session[at]))),
        h("td", { class: "words" }, badges(column.outcomes[at])), alike ? null : h("td", { class: "words preview", dir: "auto" }, said(column.preview[at])),
        roles.flatMap((role) => {
          const value = column[role][at];
          const own = h("td", null, value === null ? "–" : short(value));
          return compared.includes(role) ? [own, h("td", null, value === null || rewards(role).length < 2 ? "–" : short(value - meanOf(rewards(role))))] : [own];
        })))))),
    equal.length ? h("p", { class: "quiet" }, `All rewards of the ${equal.join(" and the ")} are equal.`) : null,
    DATA.sampled ? h("p", { class: "quiet" }, "Of the games in this page; others of the row may have been left out.") : null));
}
