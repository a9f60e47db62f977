// Fixed notes that were right at one validation and wrong at another, of one run or of two.

const RIGHT = new Set(["found", "passed"]);
let flips = null;

function isRight(i) {
  return games.column.outcomes[i].every((code) => RIGHT.has(games.outcomes[code]));
}

// Against the validation before: 1 where a note is right now and was wrong, -1 the other way round, else 0. Against the other
// run: the same at the same step. A note that cannot be told from another is left out.
function findFlips() {
  const { column } = games;
  const seen = new Map();
  const places = [];
  column.id.forEach((_, i) => {
    if (column.partition[i] !== "val" || (column.opponent[i] === "fresh" && !column.type[i].startsWith("vanilla"))) return;
    const note = [column.case[i], column.type[i], column.opponent[i], column.attack[i], column.session[i]].join("\n");
    const place = `${column.run[i]}\n${column.step[i]}\n${note}`;
    places.push([i, note]);
    seen.set(place, seen.has(place) ? null : i);
  });
  const at = (run, step, note) => seen.get(`${run}\n${step}\n${note}`) ?? null;
  const turned = (now, then) => (then === null || then === undefined || isRight(now) === isRight(then) ? 0 : isRight(now) ? 1 : -1);
  flips = { before: new Int8Array(games.count), other: new Int8Array(games.count) };
  const latest = new Map();
  places.sort(([a], [b]) => column.step[a] - column.step[b] || a - b);
  for (const [i, note] of places) {
    const [run, step] = [column.run[i], column.step[i]];
    if (at(run, step, note) === null) continue;
    const own = `${run}\n${note}`;
    flips.before[i] = turned(i, latest.get(own));
    flips.other[i] = turned(i, at(1 - run, step, note));
    latest.set(own, i);
  }
}

function flipped(against, way) {
  return (i) => {
    if (flips === null) findFlips();
    return flips[against][i] === way;
  };
}
