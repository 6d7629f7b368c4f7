/* The inner loops of soft_pq.py and soft_tree.py, each one pass over a tile of positions in place of ten over whole arrays.

Arrays are float32 and contiguous; grid [B, C, V + 2, L] holds columns, a row of ones and a row that is not read.
A call does the codebooks first <= c < last, so that threads can share the work. K and V + 2 are at most LIMIT.
A tile is TILE positions wide: WIDE vectors of LANES, one register each. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define WIDE 4
#define TILE (LANES * WIDE)
#define LIMIT 64
#define GROUP 8
#define OF_GROUP(i) _Pragma("GCC unroll 8") for (int i = 0; i < GROUP; i++)
#define EACH(w) _Pragma("GCC unroll 4") for (int w = 0; w < WIDE; w++)
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef vec row[WIDE];

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec pick(ivec where, vec a, vec b) { return (vec)(((ivec)a & where) | ((ivec)b & ~where)); }

INLINE vec root(vec x) {
#ifdef __AVX512F__
  /* the instruction for roots takes 18 cycles; this estimate and a Newton step end within two roundings */
  vec y = (vec)_mm512_rsqrt14_ps((__m512)x), r = x * y;
  return r + (x - r * r) * (y * 0.5f);
#else
  for (int l = 0; l < LANES; l++) x[l] = sqrtf(x[l]);
  return x;
#endif
}

INLINE vec inverse(vec x) {
#ifdef __AVX512F__
  vec y = (vec)_mm512_rcp14_ps((__m512)x);
  return y + y * (1.0f - x * y);
#else
  return 1.0f / x;
#endif
}

/* exp(x), x <= 0, to about one rounding; 0 below -50, as numbers too small for full precision cost a hundred cycles. */
INLINE vec exponential(vec x) {
  ivec alive = x > all(-50.0f);
  x = pick(alive, x, all(0));
  vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* nearest whole number */
  vec f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = 1.3981999e-3f + f * 1.9875691e-4f;
  p = p * f + 8.3334519e-3f;
  p = p * f + 4.1665796e-2f;
  p = p * f + 1.6666665e-1f;
  p = p * f + 5.0000001e-1f;
  p = (p * f) * f + f + 1.0f;
  return (vec)((ivec)(p * (vec)((__builtin_convertvector(n, ivec) + 127) << 23)) & alive);
}

/* A tile of an array whose rows are `stride` apart, in place where it is whole, else copied with zeros behind. */
typedef struct { const float *at; long stride; } tile;

INLINE tile whole(const row *rows) { return (tile){(const float *)rows, TILE}; }

INLINE tile part(const float *from, int rows, long positions, long at, row *space) {
  long width = positions - at;
  if (width >= TILE) return (tile){from + at, positions};
  for (int r = 0; r < rows; r++) {
    EACH(w) space[r][w] = all(0);
    memcpy(space[r], from + r * positions + at, width * sizeof(float));
  }
  return whole(space);
}

INLINE vec get(tile from, long r, int w) { return *(const unaligned *)(from.at + r * from.stride + w * LANES); }

INLINE void store(float *to, const row from, long positions, long at) {
  if (positions - at >= TILE) memcpy(to + at, from, sizeof(row));
  else memcpy(to + at, from, (positions - at) * sizeof(float));
}

/* out [rows] = (out +) factors [rows, inner], rows `apart`, times in [inner]. */
INLINE void product(row *restrict out, const float *restrict factors, long apart, tile in, int rows, int inner,
                    int add) {
  for (int r = 0; r < rows; r += 2) {
    int s = r + 1 < rows ? r + 1 : r;
    const float *f = factors + r * apart, *g = factors + s * apart;
    row a, b;
    EACH(w) { a[w] = add ? out[r][w] : all(0); b[w] = add ? out[s][w] : all(0); }
    for (int i = 0; i < inner; i++)
      EACH(w) {
        vec x = get(in, i, w);
        a[w] += f[i] * x;
        b[w] += g[i] * x;
      }
    EACH(w) { out[s][w] = b[w]; out[r][w] = a[w]; }
  }
}

/* codes int32 [B, C, L]: the largest floor of score [C, K, V + 1] times columns and ones; the lowest index on ties, K - 1
   where nothing compares (NaN). */
void lutc_codes(const float *grid, const float *score, int32_t *codes, long batch, long codebooks, long centroids,
                long rows, long positions, long first, long last) {
  int K = (int)centroids, V = (int)rows - 2;
  row space[LIMIT], found[LIMIT];
  for (long b = 0; b < batch; b++)
    for (long c = first; c < last; c++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        row best;
        ivec code[WIDE];
        tile in = part(grid + index * rows * positions, V + 1, positions, at, space);
        product(found, score + c * K * (V + 1), V + 1, in, K, V + 1, 0);
        EACH(w) { best[w] = all(-INFINITY); code[w] = (ivec){0} + (K - 1); }
        for (int k = 0; k < K; k++)
          EACH(w) {
            vec s = found[k][w];
            for (int l = 0; l < LANES; l++) s[l] = floorf(s[l]);
            ivec better = s > best[w];
            code[w] = (((ivec){0} + k) & better) | (code[w] & ~better);
            best[w] = pick(better, s, best[w]);
          }
        store((float *)codes + index * positions, (vec *)code, positions, at);
      }
    }
}

/* u [K] = table [K, M] times a tile of upstream [M, L]: how far each entry of the attention is wanted. */
INLINE void wanted(row *u, const float *table, const float *upstream, int K, long outputs, long positions, long at,
                   row *space) {
  for (long m = 0; m < outputs; m += LIMIT) {
    int some = outputs - m < LIMIT ? (int)(outputs - m) : LIMIT;
    tile up = part(upstream + m * positions, some, positions, at, space);
    product(u, table + m, outputs, up, K, some, m > 0);
  }
}

/* to_table [K, P] += attention times a tile of turned [L, P], or turned alone in the row of each code. */
INLINE void learn(float *to_table, row *attention, const int32_t *codes, const float *turned, int K, long padded,
                  long positions, long at) {
  int width = positions - at < TILE ? (int)(positions - at) : TILE;
  turned += at * padded;
  for (int l = 0; codes && l < width; l++) {
    float *to = to_table + codes[at + l] * padded;
    for (long m = 0; m < padded; m++) to[m] += turned[l * padded + m];
  }
  for (int k = 0; !codes && k < K; k += GROUP)
    for (long m = 0; m < padded; m += LANES) {
      vec found[GROUP];
      OF_GROUP(i) found[i] = all(0);
      for (int l = 0; l < width; l++) {
        vec u = *(const unaligned *)(turned + l * padded + m);
        OF_GROUP(i) found[i] += ((const float *)attention[k + i])[l] * u;
      }
      OF_GROUP(i) if (k + i < K) *(unaligned *)(to_table + (k + i) * padded + m) += found[i];
    }
}

/* The whole backward of one piece. upstream [B, M, L]; turned [B, L, P] is the same with M padded to P, whole vectors.

   r = root of (factors [C, K, V + 2] times columns, ones and |x|^2), at least floor; a = softmax of -r over K
   to_table [C, K, P] += a times upstream, summed over positions; with codes [B, C, L], upstream where k is the code
   g = a (u - sum of a u), u = table [C, K, M] times upstream: the gradient of -r
   to_columns [B, C, V, L] = pull [C, V, K] times g / r, less columns times (drag [C, K] times g / r)
   moments [C, K, V + 1] += g / r times columns and ones, temperature [C] += g r, summed over positions */
void lutc_backward(const float *grid, const float *factors, float floor, const float *upstream, const float *turned,
                   const float *table, const int32_t *codes, const float *pull, const float *drag, float *to_columns, float *to_table,
                   float *moments, float *temperature, long outputs, long padded, long batch, long codebooks,
                   long centroids, long rows, long positions, long first, long last) {
  int K = (int)centroids, V = (int)rows - 2;
  row space[LIMIT + 1], r[LIMIT], a[LIMIT], p[LIMIT], out[LIMIT];
  vec sums[LIMIT * LIMIT];
  memset(a, 0, sizeof(a));
  for (long c = first; c < last; c++) {
    vec heat = all(0);
    memset(sums, 0, K * (V + 1) * sizeof(vec));
    for (long b = 0; b < batch; b++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        row square[1], low, sum;
        wanted(p, table + c * K * outputs, upstream + b * outputs * positions, K, outputs, positions, at, space);
        tile in = part(grid + index * rows * positions, V + 1, positions, at, space);
        EACH(w) square[0][w] = all(0);
        for (int v = 0; v < V; v++) EACH(w) square[0][w] += get(in, v, w) * get(in, v, w);
        product(r, factors + c * K * (V + 2), V + 2, in, K, V + 1, 0);
        EACH(w) { low[w] = all(INFINITY); sum[w] = all(0); }
        for (int k = 0; k < K; k++) {
          float factor = factors[(c * K + k) * (V + 2) + V + 1];
          EACH(w) {
            vec d = r[k][w] + factor * square[0][w];
            d = root(pick(d < all(floor), all(floor), d));
            r[k][w] = d;
            low[w] = pick(d < low[w], d, low[w]);
          }
        }
        for (int k = 0; k < K; k++)
          EACH(w) {
            a[k][w] = exponential(low[w] - r[k][w]);
            sum[w] += a[k][w];
          }
        row inner;
        EACH(w) { sum[w] = 1.0f / sum[w]; inner[w] = all(0); }
        for (int k = 0; k < K; k++)
          EACH(w) {
            a[k][w] *= sum[w];
            inner[w] += a[k][w] * p[k][w];
          }
        EACH(w) sum[w] = all(0);
        for (int k = 0; k < K; k++)
          EACH(w) {
            vec g = a[k][w] * (p[k][w] - inner[w]);
            heat += g * r[k][w];
            p[k][w] = g * inverse(r[k][w]);
            sum[w] += drag[c * K + k] * p[k][w];
          }
        product(out, pull + c * V * K, K, whole(p), V, K, 0);
        for (int v = 0; v < V; v++) {
          EACH(w) out[v][w] -= get(in, v, w) * sum[w];
          store(to_columns + (index * V + v) * positions, out[v], positions, at);
        }
        for (int k = 0; k < K; k++)
          for (int v = 0; v <= V; v++) {
            vec s = sums[k * (V + 1) + v];
            EACH(w) s += p[k][w] * get(in, v, w);
            sums[k * (V + 1) + v] = s;
          }
        learn(to_table + c * K * padded, a, codes ? codes + index * positions : 0, turned + b * positions * padded, K,
              padded, positions, at);
      }
    }
    for (int i = 0; i < K * (V + 1); i++)
      for (int l = 0; l < LANES; l++) moments[c * K * (V + 1) + i] += sums[i][l];
    for (int l = 0; l < LANES; l++) temperature[c] += heat[l];
  }
}

/* codes int32 [B, C, L] of trees: grid [B, C, V, L], dims int32 [C, levels], splits [C, K - 1] in the grid's units. */
void lutc_tree_codes(const float *grid, const int32_t *dims, const float *splits, int32_t *codes, long levels,
                     long batch, long codebooks, long centroids, long rows, long positions, long first, long last) {
  for (long b = 0; b < batch; b++)
    for (long c = first; c < last; c++) {
      const float *in = grid + (b * codebooks + c) * rows * positions, *split = splits + c * (centroids - 1);
      int32_t *out = codes + (b * codebooks + c) * positions;
      for (long l = 0; l < positions; l++) out[l] = 0;
      for (long level = 0; level < levels; level++) {
        const float *x = in + dims[c * levels + level] * positions;
        for (long l = 0; l < positions; l++) out[l] = 2 * out[l] + 1 + (x[l] >= split[out[l]]);
      }
      for (long l = 0; l < positions; l++) out[l] -= (int32_t)centroids - 1;
    }
}

/* The whole backward of one piece of trees; grid [B, C, V, L], dims int32 [C, levels], thresholds [C, K - 1] and step [C]
   of the grid in units of x. m = (x - threshold) * sharpness and s = tanh(m) at every node; a = softmax over the leaves
   of the signed sums of s on their paths; to_columns is in units of x; to_thresholds [C, K - 1] and temperature [C] are
   added to; the others as in lutc_backward. */
void lutc_tree_backward(const float *grid, const int32_t *dims, const float *thresholds, const float *step,
                        float sharpness, const float *upstream, const float *turned, const float *table,
                        const int32_t *codes, float *to_columns, float *to_table, float *to_thresholds,
                        float *temperature, long levels, long outputs, long padded, long batch, long codebooks,
                        long centroids, long rows, long positions, long first, long last) {
  int K = (int)centroids, V = (int)rows;
  row space[LIMIT], margin[LIMIT], side[LIMIT], a[LIMIT], p[LIMIT], out[LIMIT], heap[2 * LIMIT];
  memset(a, 0, sizeof(a));
  for (long c = first; c < last; c++) {
    vec heat = all(0), sums[LIMIT];
    memset(sums, 0, sizeof(sums));
    for (long b = 0; b < batch; b++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        row sum, inner;
        wanted(p, table + c * K * outputs, upstream + b * outputs * positions, K, outputs, positions, at, space);
        tile in = part(grid + index * rows * positions, V, positions, at, space);
        EACH(w) { heap[0][w] = sum[w] = inner[w] = all(0); }
        for (int level = 0, n = 0; level < levels; level++)
          for (int end = 2 * n + 1; n < end; n++)
            EACH(w) {
              vec x = get(in, dims[c * levels + level], w) * step[c];
              vec m = (x - thresholds[c * (K - 1) + n]) * sharpness;
              vec e = exponential(-2.0f * pick(m < all(0), -m, m)), s = (1.0f - e) * inverse(1.0f + e);
              s = pick(m < all(0), -s, s);
              margin[n][w] = m;
              side[n][w] = s;
              heap[2 * n + 1][w] = heap[n][w] - s;
              heap[2 * n + 2][w] = heap[n][w] + s;
            }
        for (int k = 0; k < K; k++)
          EACH(w) {
            a[k][w] = exponential(heap[K - 1 + k][w] - (float)levels);
            sum[w] += a[k][w];
          }
        EACH(w) sum[w] = 1.0f / sum[w];
        for (int k = 0; k < K; k++)
          EACH(w) {
            a[k][w] *= sum[w];
            inner[w] += a[k][w] * p[k][w];
          }
        for (int k = 0; k < K; k++) EACH(w) heap[K - 1 + k][w] = a[k][w] * (p[k][w] - inner[w]);
        for (int v = 0; v < V; v++) EACH(w) out[v][w] = all(0);
        for (int level = (int)levels - 1, n = K - 2; level >= 0; level--)
          for (int end = (1 << level) - 1; n >= end; n--)
            EACH(w) {
              vec g = (heap[2 * n + 2][w] - heap[2 * n + 1][w]) * (1.0f - side[n][w] * side[n][w]);
              heap[n][w] = heap[2 * n + 1][w] + heap[2 * n + 2][w];
              heat -= g * margin[n][w];
              g *= sharpness;
              sums[n] -= g;
              out[dims[c * levels + level]][w] += g;
            }
        for (int v = 0; v < V; v++) store(to_columns + (index * V + v) * positions, out[v], positions, at);
        learn(to_table + c * K * padded, a, codes ? codes + index * positions : 0, turned + b * positions * padded, K,
              padded, positions, at);
      }
    }
    for (int n = 0; n < K - 1; n++)
      for (int l = 0; l < LANES; l++) to_thresholds[c * (K - 1) + n] += sums[n][l];
    for (int l = 0; l < LANES; l++) temperature[c] += heat[l];
  }
}
