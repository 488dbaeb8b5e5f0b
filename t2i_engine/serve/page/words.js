// The known words that an unknown one may be a misspelling of, best first.
export function nearest(word, known, count = 3) {
  const limit = Math.max(1, Math.floor(word.length / 4));
  return known
    .filter((other) => Math.abs(other.length - word.length) <= limit)
    .map((other) => [distance(word, other), other])
    .filter(([far]) => far <= limit)
    .sort((a, b) => a[0] - b[0])
    .slice(0, count)
    .map(([, other]) => other);
}

function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const last = row;
    row = [i];
    for (let j = 1; j <= b.length; j++) {
      row[j] = Math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] !== b[j - 1]));
    }
  }
  return row[b.length];
}
