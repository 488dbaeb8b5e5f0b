// Seed to noise: t2i_engine/latents.py, number for number.

const CUT = 2;
const [BELOW, ABOVE] = [0.02275013194817921, 0.9772498680518208]; // of N(0, 1), at -CUT and CUT

const WORD = (1n << 64n) - 1n;
const [FACTOR_0, FACTOR_1] = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const [STEP_0, STEP_1] = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];

// Normal random numbers from a seed, Float32Array (count); below a truncation of 1, cut at ±2, times the truncation.
export function normals(seed, count, truncation) {
  const drawn = new Float32Array(count);
  for (let at = 0; at < count; at += 4) {
    // 52 bits plus a half fit a double exactly and are never 0 or 1.
    const uniforms = philox(BigInt(at / 4 + 1), BigInt(seed)).map((word) => (Number(word >> 12n) + 0.5) * 2 ** -52);
    const values = uniforms.map((uniform) => {
      if (truncation === 1) return inverseNormal(uniform);
      return truncation * Math.min(Math.max(inverseNormal(BELOW + uniform * (ABOVE - BELOW)), -CUT), CUT);
    });
    drawn.set(values.slice(0, count - at), at);
  }
  return drawn;
}

// A block of four 64-bit words: Philox4x64-10 (Salmon et al., 2011), as NumPy counts and keys it.
function philox(counter, seed) {
  let [a, b, c, d] = [counter, 0n, 0n, 0n];
  let [key, other] = [seed, 0n];
  for (let round = 0; round < 10; round++) {
    const [first, second] = [a * FACTOR_0, c * FACTOR_1];
    [a, b, c, d] = [(second >> 64n) ^ b ^ key, second & WORD, (first >> 64n) ^ d ^ other, first & WORD];
    [key, other] = [(key + STEP_0) & WORD, (other + STEP_1) & WORD];
  }
  return [a, b, c, d];
}

// Algorithm AS 241 (Wichura, 1988), as Python's statistics.NormalDist().inv_cdf computes it.
const CENTRE = [
  [2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987, 13731.69376550946, 1971.5909503065513,
    133.14166789178438, 3.3871328727963665],
  [5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597, 5394.196021424751, 687.1870074920579,
    42.31333070160091, 1],
];
const TAIL = [
  [0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684, 3.6478483247632045,
    5.769497221460691, 4.630337846156546, 1.4234371107496835],
  [1.0507500716444169e-9, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008, 0.6897673349851,
    1.6763848301838038, 2.053191626637759, 1],
];
const FAR_TAIL = [
  [2.0103343992922881e-7, 2.7115555687434876e-5, 0.0012426609473880784, 0.026532189526576124, 0.29656057182850487,
    1.7848265399172913, 5.463784911164114, 6.657904643501103],
  [2.0442631033899397e-15, 1.421511758316446e-7, 1.8463183175100548e-5, 0.0007868691311456133, 0.014875361290850615,
    0.1369298809227358, 0.599832206555888, 1],
];

function inverseNormal(probability) {
  const q = probability - 0.5;
  if (Math.abs(q) <= 0.425) return ratio(CENTRE, 0.180625 - q * q, q);
  const r = Math.sqrt(-Math.log(q <= 0 ? probability : 1 - probability));
  return r <= 5 ? ratio(TAIL, r - 1.6, Math.sign(q)) : ratio(FAR_TAIL, r - 5, Math.sign(q));
}

function ratio([above, below], r, factor) {
  const polynomial = (coefficients) => coefficients.reduce((sum, coefficient) => sum * r + coefficient);
  return (polynomial(above) * factor) / polynomial(below);
}
