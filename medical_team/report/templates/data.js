// The blocks of the page, unpacked when they are needed.

const DATA = JSON.parse(document.getElementById("report-data").textContent);
const KEPT_BLOCKS = 6;
const blocks = new Map();

async function unpackText(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

async function unpack(id) {
  return JSON.parse(await unpackText(id));
}

const games = { count: 0, column: {}, outcomes: [], byId: new Map(), perBlock: 1 };

async function loadColumns() {
  const data = await unpack("columns");
  for (const [name, column] of Object.entries(data.columns)) {
    games.column[name] = Array.isArray(column) ? column : column.codes.map((code) => column.texts[code]);
  }
  games.outcomes = data.outcomes;
  games.perBlock = data.per_block;
  games.count = games.column.id.length;
  games.column.id.forEach((id, i) => games.byId.set(id, i));
}

function blockOf(number) {
  if (!blocks.has(number)) blocks.set(number, unpack(`block-${number}`));
  const found = blocks.get(number);
  blocks.delete(number);
  blocks.set(number, found);
  while (blocks.size > KEPT_BLOCKS) blocks.delete(blocks.keys().next().value);
  return found;
}

async function gameOf(index) {
  const block = await blockOf(Math.floor(index / games.perBlock));
  return block[index % games.perBlock];
}

// What a game is searched in, block by block; kept for the next letter that is typed, as far as memory should go.
const searchable = new Map();
const KEPT_LETTERS = 1e8;
let keptLetters = 0;

// Resolves to null where no game of the block can hold all the words, which is known before the block is parsed.
async function searchableBlock(number, terms) {
  if (searchable.has(number)) return searchable.get(number);
  const text = await unpackText(`block-${number}`);
  const plain = terms.flatMap((term) => term.split(/\s+/)).filter((word) => /^[\w.,:-]+$/.test(word));
  if (plain.length) {
    const all = text.toLowerCase() + games.column.id.slice(number * games.perBlock, (number + 1) * games.perBlock).join("\n");
    if (!plain.every((word) => all.includes(word))) return null;
  }
  const first = number * games.perBlock;
  const found = JSON.parse(text).map((game, i) =>
    [
      games.column.id[first + i], game.uid, game.case_id, game.game_type, game.error_type, game.opponent,
      game.attack_id, game.forfeit, game.source.join(" "), game.note?.join(" "), game.labels?.source, game.unscored,
      ...game.turns.flatMap((turn) => [turn.response, turn.violation]),
    ].join("\n").toLowerCase(),
  );
  keptLetters += found.reduce((sum, one) => sum + one.length, 0);
  if (keptLetters < KEPT_LETTERS) searchable.set(number, found);
  return found;
}
