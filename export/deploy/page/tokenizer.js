// Captions to token ids: t2i_engine/tokenizer.py, word for word.

const LONGEST_CAPTION = 10_000;
const SHORTEST_MISSPELT = 4;
const LONGEST_MISSPELT = 40;
const LETTERS = "abcdefghijklmnopqrstuvwxyz";

export class Tokenizer {
  // `words` by id; `near` maps other words to the known one that each is read as, or to null. Without it, none is.
  constructor(words, near = null) {
    this.words = words;
    this.ids = new Map(words.map((word, id) => [word, id]));
    this.near = near && new Map(Object.entries(near));
  }

  // {ids, unknown: [word], readAs: [[word, known]]}. Throws if no word is known, or there are too many.
  encode(caption) {
    const length = [...caption].length;
    if (length > LONGEST_CAPTION) throw new Error(`the caption has ${length} characters; shorten it to ${LONGEST_CAPTION} at most`);
    const ids = [];
    const unknown = new Set();
    const readAs = new Map();
    for (const run of caption.replaceAll("\ufffd\ufffd", " ").toLowerCase().match(/[\p{L}\p{N}_]+/gu) ?? []) {
      const word = run.replace(/[^\0-\x7f]/gu, "");
      const known = this.ids.has(word) ? word : unknown.has(run) ? null : (readAs.get(run) ?? this.readAs(run));
      if (known === null) unknown.add(run);
      else ids.push(this.ids.get(known));
      if (known !== null && known !== word) readAs.set(run, known);
    }
    if (!ids.length) throw new Error(`no word in the caption '${caption}' is known; ${this.advice([...unknown])}`);
    return { ids, unknown: [...unknown], readAs: [...readAs] };
  }

  // The known word that an unknown one is read as; null if it is left out.
  readAs(word) {
    if (!this.near || this.ids.has(word)) return null;
    if (this.near.has(word)) return this.near.get(word);
    if (!/^[a-z]+$/.test(word) || word.length < SHORTEST_MISSPELT || word.length > LONGEST_MISSPELT) return null;
    const meant = oneLetterOff(word).filter((other) => other.length >= SHORTEST_MISSPELT);
    const near = meant.map((other) => this.near.get(other));
    return meant.find((other) => this.ids.has(other)) ?? near.find(Boolean) ?? null;
  }

  // The known words that a word may be a misspelling, plural or singular of, best first.
  nearest(word, count = 3) {
    const found = this.words.slice(1).map((known) => [misspelling([...word].slice(0, 40), [...known]), known]);
    return found.filter(([distance]) => distance < Infinity).sort(([a], [b]) => a - b).slice(0, count).map(([, known]) => known);
  }

  advice(unknown) {
    const nearest = [...new Set(unknown.slice(0, 5).flatMap((word) => this.nearest(word)))];
    if (nearest.length) return `the nearest known words are: ${nearest.join(", ")}`;
    return `use words such as: ${this.words.slice(1, 9).join(", ")}`;
  }
}

// What may have been meant: two letters swapped, one missing, one too many, one wrong; no plural and no singular.
function oneLetterOff(word) {
  const end = word.length;
  const places = Array.from({ length: end }, (_, place) => place);
  const [before, after] = [(place) => word.slice(0, place), (place) => word.slice(place)];
  const swapped = places.slice(0, -1).map((place) => before(place) + word[place + 1] + word[place] + after(place + 2));
  const missing = [...places.slice(1), end].flatMap((place) =>
    [...LETTERS].filter((letter) => place < end || letter !== "s").map((letter) => before(place) + letter + after(place)),
  );
  const extra = places.slice(1).filter((place) => place < end - 1 || word[place] !== "s").map((place) => before(place) + after(place + 1));
  const wrong = places.slice(1).flatMap((place) => [...LETTERS].map((letter) => before(place) + letter + after(place + 1)));
  return [...swapped, ...missing, ...extra, ...wrong];
}

// The edit distance of two words (arrays of characters) if one may be a misspelling of the other, else Infinity.
function misspelling(word, known) {
  if (singular(word.join("")) === singular(known.join(""))) return 0;
  const limit = Math.floor(word.length / 4) + 0.5;
  const starts = known.slice(0, 2).includes(word[0]) && word.slice(0, 2).includes(known[0]);
  if (word.length < 4 || !starts || Math.abs(word.length - known.length) > limit) return Infinity;
  let before = new Array(known.length + 1).fill(Infinity);
  let row = Array.from({ length: known.length + 1 }, (_, index) => index);
  word.forEach((letter, i) => {
    const last = before;
    [before, row] = [row, [i + 1]];
    known.forEach((other, j) => {
      let distance = Math.min(row[j] + 1, before[j + 1] + 1, before[j] + (letter === other ? 0 : 1.5));
      const swapped = i && j && word[i - 1] === other && letter === known[j - 1];
      if (swapped) distance = Math.min(distance, last[j - 1] + 0.75);
      row.push(distance);
    });
  });
  return row.at(-1) <= limit ? row.at(-1) : Infinity;
}

function singular(word) {
  for (const [plural, one] of [["ies", "y"], ["es", ""], ["s", ""]]) {
    if (word.endsWith(plural) && [...word].length > plural.length + 2) return word.slice(0, -plural.length) + one;
  }
  return word;
}
