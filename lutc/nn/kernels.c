/* The inner loops of soft_pq.py and soft_tree.py, each one pass over a tile of positions in place of ten over whole arrays.

Arrays are float32 and contiguous. Inputs are planes [B, C, size], what a codebook sees of an image, with a border of
zeros; the V elements of a column lie in them at fixed distances from where its position starts (`windows`).
A call does the codebooks first <= c < last, so that threads can share the work. K and V are at most LIMIT.
A tile is TILE positions wide: WIDE vectors of LANES, one register each. Tiles are copied before they are worked on: the
rows of an array are often a multiple of 4 KiB apart, and so many of them have no room in the first-level cache. */

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
#define PART 64
#define GROUP 8
#if LANES == 16
#define ROWS 4 /* whose sums are in registers at a time */
#else
#define ROWS 2
#endif
#define FEW _Pragma("GCC unroll 8")
#define OF_GROUP(i) _Pragma("GCC unroll 8") for (int i = 0; i < GROUP; i++)
#define OF_ROWS(j) _Pragma("GCC unroll 4") for (int j = 0; j < ROWS; j++)
#define EACH(w) _Pragma("GCC unroll 4") for (int w = 0; w < WIDE; w++)
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float unaligned __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef vec row[WIDE];

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec pick(ivec where, vec a, vec b) { return (vec)(((ivec)a & where) | ((ivec)b & ~where)); }

/* Of a and b; b where they do not compare (NaN). */
INLINE vec larger(vec a, vec b) {
#ifdef __AVX512F__
  return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#else
  return pick(a > b, a, b);
#endif
}

INLINE vec smaller(vec a, vec b) {
#ifdef __AVX512F__
  return (vec)_mm512_min_ps((__m512)a, (__m512)b);
#else
  return pick(a < b, a, b);
#endif
}

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

/* exp(x), x <= 0, to about one rounding; below -50 that of -50, as products of numbers much smaller lose their precision
   and take a hundred cycles. */
INLINE vec exponential(vec x) {
  x = larger(all(-50.0f), x);
  vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* nearest whole number */
  vec f = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  vec p = 1.3981999e-3f + f * 1.9875691e-4f;
  p = p * f + 8.3334519e-3f;
  p = p * f + 4.1665796e-2f;
  p = p * f + 1.6666665e-1f;
  p = p * f + 5.0000001e-1f;
  p = (p * f) * f + f + 1.0f;
#ifdef __AVX512F__
  return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  return p * (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
#endif
}

/* to (+)= from, n of them `step` apart in the plane, which is `from`, or `to` where they are added. */
INLINE void line(float *to, const float *from, long n, long step, int add) {
  long i = 0;
  if (step == 1) {
    for (; i + LANES <= n; i += LANES) {
      if (add) *(unaligned *)(to + i) += *(const unaligned *)(from + i);
      else *(unaligned *)(to + i) = *(const unaligned *)(from + i);
    }
    for (; i + 4 <= n; i += 4)
      for (long j = i; j < i + 4; j++) to[j] = add ? to[j] + from[j] : from[j];
  }
  for (; i < n; i++)
    if (add) to[i * step] += from[i];
    else to[i] = from[i * step];
}

/* How positions lie in planes: `size` floats of a codebook, `width` positions in a row, the distance to the next row and
   to the next position, then the distance of each element from its position's start. */
typedef struct { long size, width, down, right, element[LIMIT]; } windows;

/* Copy a tile of columns [V, TILE] from a plane, zeros behind its end, or add it to the plane. */
INLINE void columns(row *tile, float *plane, const windows *in, int V, long positions, long at, int add) {
  long count = positions - at < TILE ? positions - at : TILE;
  if (!add && count < TILE)
    for (int v = 0; v < V; v++) EACH(w) tile[v][w] = all(0);
  long y = at / in->width, x = at % in->width;
  for (long l = 0, run; l < count; l += run, x = 0, y++) {
    run = in->width - x < count - l ? in->width - x : count - l;
    float *start = plane + y * in->down + x * in->right;
    for (int v = 0; v < V; v++) {
      float *element = start + in->element[v], *place = (float *)tile[v] + l;
      line(add ? element : place, add ? place : element, run, in->right, add);
    }
  }
}

/* out [rows] = factors [rows, inner] times in [inner], from zero, from what is there, or from the factor behind the last. */
enum start { ZERO, THERE, BEHIND };
INLINE void product(row *restrict out, const float *restrict factors, long apart, const row *in, int rows, int inner,
                    enum start start) {
  for (int r = 0; r < rows; r += ROWS) {
    const float *f[ROWS];
    vec sum[ROWS][WIDE];
    OF_ROWS(j) {
      int s = r + j < rows ? r + j : rows - 1;
      f[j] = factors + s * apart;
      EACH(w) sum[j][w] = start == THERE ? out[s][w] : all(start == BEHIND ? f[j][inner] : 0);
    }
    for (int i = 0; i < inner; i++)
      EACH(w) {
        vec x = in[i][w];
        OF_ROWS(j) sum[j][w] += f[j][i] * x;
      }
    OF_ROWS(j) if (r + j < rows) EACH(w) out[r + j][w] = sum[j][w];
  }
}

/* planes [B, C, each, height, width] of x [B, channels, rows, cols], `top` and `left` in from their corner, zeros around
   it and for channels that x lacks. With inv_scale [C] whole numbers: rounded half to even, clipped, multiples of step. */
void lutc_planes(const float *x, const float *inv_scale, float low, float high, float step, float *planes, long batch,
                 long codebooks, long each, long channels, long rows, long cols, long top, long left, long height,
                 long width, long first, long last) {
  for (long b = 0; b < batch; b++)
    for (long c = first; c < last; c++)
      for (long i = 0; i < each; i++) {
        float *plane = planes + ((b * codebooks + c) * each + i) * height * width;
        memset(plane, 0, height * width * sizeof(float));
        if (c * each + i >= channels) continue;
        for (long h = 0; h < rows; h++) {
          const float *from = x + ((b * channels + c * each + i) * rows + h) * cols;
          float *to = plane + (h + top) * width + left;
          if (!inv_scale) memcpy(to, from, cols * sizeof(float));
          for (long w = 0; inv_scale && w < cols; w++) {
            float n = rintf(from[w] * inv_scale[c]);
            n = n < low ? low : n;
            n = n > high ? high : n;
            if (step != 1) {
              n += (float)((int)step / 2);
              n = floorf((n > high ? high : n) / step) * step;
            }
            to[w] = n;
          }
        }
      }
}

/* to_x = what planes hold of it; 0 where an input was clipped. */
void lutc_from_planes(const float *planes, const float *x, const float *inv_scale, float low, float high, float *to_x,
                      long batch, long codebooks, long each, long channels, long rows, long cols, long top, long left,
                      long height, long width, long first, long last) {
  for (long b = 0; b < batch; b++)
    for (long i = first * each; i < last * each && i < channels; i++)
      for (long h = 0; h < rows; h++) {
        const float *from = planes + ((b * codebooks * each + i) * height + h + top) * width + left;
        long at = ((b * channels + i) * rows + h) * cols;
        for (long w = 0; w < cols; w++) {
          float n = inv_scale ? rintf(x[at + w] * inv_scale[i / each]) : low;
          to_x[at + w] = n < low || n > high ? 0 : from[w];
        }
      }
}

/* codes int32 [B, C, L]: the largest floor of score [C, K, V + 1] times columns and one; the lowest index on ties, K - 1
   where nothing compares (NaN). Base, a power of two, is at least K; floors times base are exact in float32. */
INLINE void find(const float *planes, const windows *in, const float *score, float base, int32_t *codes, long batch,
                 long codebooks, int K, int V, long positions, long first, long last) {
  row tile[LIMIT], found[LIMIT];
  for (long b = 0; b < batch; b++)
    for (long c = first; c < last; c++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        row best;
        ivec code[WIDE];
        columns(tile, (float *)planes + index * in->size, in, V, positions, at, 0);
        product(found, score + c * K * (V + 1), V + 1, tile, K, V, BEHIND);
        EACH(w) best[w] = all(-16777216.0f); /* 2^24 */
        for (int k = 0; k < K; k++)
          EACH(w) { /* the rank, K - 1 - k, sits below the score: the largest has the best score and the lowest index */
            vec s = found[k][w];
            for (int l = 0; l < LANES; l++) s[l] = floorf(s[l]);
            best[w] = larger(s * base + (float)(K - 1 - k), best[w]);
          }
        EACH(w) code[w] = K - 1 - (__builtin_convertvector(best[w], ivec) & ((int)base - 1));
        long count = positions - at < TILE ? positions - at : TILE;
        memcpy(codes + index * positions + at, code, count * sizeof(int32_t));
      }
    }
}

void lutc_codes(const float *planes, const windows *in, const float *score, float base, int32_t *codes, long batch,
                long codebooks, long K, long V, long positions, long first, long last) {
  if (K == 16 && V == 9) find(planes, in, score, base, codes, batch, codebooks, 16, 9, positions, first, last);
  else find(planes, in, score, base, codes, batch, codebooks, (int)K, (int)V, positions, first, last);
}

INLINE void add_rows(row *sums, const int32_t *code, const float *values, long padded, int count, int some) {
  for (int l = 0; l < count; l++) {
    const float *from = values + code[l] * padded;
    for (int w = 0; w < some; w++) sums[l][w] += *(const unaligned *)(from + w * LANES);
  }
}

/* y [B, M, L], or with by_position [B, L, M]: the sum over codebooks of values [C, K, P] at codes [B, C, L], times scale
   [M]. P is M padded to whole vectors. The work is numbered in parts of PART positions, image after image. */
void lutc_read(const int32_t *codes, const float *values, const float *scale, float *y, long by_position, long outputs,
               long padded, long codebooks, long K, long positions, long first, long last) {
  long parts = (positions + PART - 1) / PART, apart = by_position ? 1 : positions, step = by_position ? outputs : 1;
  for (long part = first; part < last; part++) {
    vec sums[PART][WIDE];
    long b = part / parts, at = part % parts * PART;
    int count = positions - at < PART ? (int)(positions - at) : PART;
    const int32_t *code = codes + b * codebooks * positions + at;
    for (long m = 0; m < outputs; m += TILE) {
      int some = padded - m < TILE ? (int)(padded - m) / LANES : WIDE;
      long end = outputs - m < TILE ? outputs - m : TILE;
      memset(sums, 0, sizeof(sums));
      for (long c = 0; c < codebooks; c++) {
        const float *from = values + c * K * padded + m;
        if (some == 1) add_rows(sums, code + c * positions, from, padded, count, 1);
        else if (some == WIDE) add_rows(sums, code + c * positions, from, padded, count, WIDE);
        else add_rows(sums, code + c * positions, from, padded, count, some);
      }
      float *to = y + b * outputs * positions + at * step + m * apart;
      for (long j = 0; j < end; j++)
        for (int l = 0; l < count; l++) to[j * apart + l * step] = ((const float *)sums[l])[j] * scale[m + j];
    }
  }
}

/* u [K] = table [K, M] times a tile of upstream [M, L]: how far each entry of the attention is wanted. */
INLINE void wanted(row *u, const float *table, const float *upstream, int K, long outputs, long positions, long at,
                   row *space) {
  long count = positions - at < TILE ? positions - at : TILE;
  for (long m = 0; m < outputs; m += LIMIT) {
    int some = outputs - m < LIMIT ? (int)(outputs - m) : LIMIT;
    for (int i = 0; i < some; i++) {
      if (count < TILE) EACH(w) space[i][w] = all(0);
      line((float *)space[i], upstream + (m + i) * positions + at, count, 1, 0);
    }
    product(u, table + m, outputs, space, K, some, m > 0 ? THERE : ZERO);
  }
}

/* to_table [K, P] += attention times a tile of turned [L, P], or with the tile's codes turned alone in their rows. */
INLINE void learn(float *to_table, row *attention, const int32_t *codes, const float *turned, int K, long padded,
                  long positions, long at) {
  int width = positions - at < TILE ? (int)(positions - at) : TILE;
  turned += at * padded;
  for (int l = 0; codes && l < width; l++) {
    float *to = to_table + codes[l] * padded;
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

   |x|^2 is x times seen; seen = metric [C, V, V] times columns, or without a metric the columns themselves
   r = root of (factors [C, K, V + 2] times columns, one and |x|^2), at least floor; a = softmax of -r over K
   to_table [C, K, P] += a times upstream, summed over positions; with codes [B, C, L], upstream where k is the code
   g = a (u - sum of a u), u = table [C, K, M] times upstream: the gradient of -r
   to_planes += pull [C, V, K] times g / r, less seen times (drag [C, K] times g / r), each where its column is
   moments [C, K, V + 1] += g / r times columns and one, temperature [C] += g r, summed over positions */
INLINE void turn_back(const float *planes, const windows *in, const float *factors, float floor, const float *upstream,
                      const float *turned, const float *table, const int32_t *codes, const float *pull,
                      const float *drag, const float *metric, float *to_planes, float *to_table, float *moments,
                      float *temperature, long outputs, long padded, long batch, long codebooks, int K, int V,
                      long positions, long first, long last) {
  row space[LIMIT], tile[LIMIT], r[LIMIT], a[LIMIT], p[LIMIT], out[LIMIT];
  vec sums[LIMIT][LIMIT + 1];
  memset(a, 0, sizeof(a));
  memset(p, 0, sizeof(p));
  for (long c = first; c < last; c++) {
    vec heat = all(0);
    memset(sums, 0, sizeof(sums[0]) * ((K + ROWS - 1) / ROWS * ROWS));
    for (long b = 0; b < batch; b++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        row square, low, sum, inner;
        wanted(p, table + c * K * outputs, upstream + b * outputs * positions, K, outputs, positions, at, space);
        columns(tile, (float *)planes + index * in->size, in, V, positions, at, 0);
        const row *seen = tile;
        if (metric) {
          product(space, metric + c * V * V, V, tile, V, V, ZERO);
          seen = space;
        }
        EACH(w) square[w] = sum[w] = inner[w] = all(0);
        for (int v = 0; v < V; v++) EACH(w) square[w] += tile[v][w] * seen[v][w];
        product(r, factors + c * K * (V + 2), V + 2, tile, K, V, BEHIND);
        EACH(w) low[w] = all(INFINITY);
        for (int k = 0; k < K; k++) {
          float factor = factors[(c * K + k) * (V + 2) + V + 1];
          EACH(w) {
            r[k][w] = root(larger(all(floor), r[k][w] + factor * square[w]));
            low[w] = smaller(r[k][w], low[w]);
          }
        }
        for (int k = 0; k < K; k++)
          EACH(w) {
            a[k][w] = exponential(low[w] - r[k][w]);
            sum[w] += a[k][w];
            inner[w] += a[k][w] * p[k][w];
          }
        EACH(w) {
          sum[w] = 1.0f / sum[w];
          inner[w] *= sum[w];
        }
        row pulled;
        EACH(w) pulled[w] = all(0);
        for (int k = 0; k < K; k++)
          EACH(w) {
            a[k][w] *= sum[w];
            vec g = a[k][w] * (p[k][w] - inner[w]);
            heat += g * r[k][w];
            p[k][w] = g * inverse(r[k][w]);
            pulled[w] += drag[c * K + k] * p[k][w];
          }
        product(out, pull + c * V * K, K, p, V, K, ZERO);
        for (int v = 0; v < V; v++) EACH(w) out[v][w] -= seen[v][w] * pulled[w];
        columns(out, to_planes + index * in->size, in, V, positions, at, 1);
        for (int k = 0; k < K; k += ROWS) {
          for (int v = 0; v < V; v++) OF_ROWS(j) {
            vec s = sums[k + j][v];
            EACH(w) s += p[k + j][w] * tile[v][w];
            sums[k + j][v] = s;
          }
          OF_ROWS(j) EACH(w) sums[k + j][V] += p[k + j][w];
        }
        learn(to_table + c * K * padded, a, codes ? codes + index * positions + at : 0, turned + b * positions * padded, K,
              padded, positions, at);
      }
    }
    for (int k = 0; k < K; k++)
      for (int v = 0; v <= V; v++)
        for (int l = 0; l < LANES; l++) moments[(c * K + k) * (V + 1) + v] += sums[k][v][l];
    for (int l = 0; l < LANES; l++) temperature[c] += heat[l];
  }
}

void lutc_backward(const float *planes, const windows *in, const float *factors, float floor, const float *upstream,
                   const float *turned, const float *table, const int32_t *codes, const float *pull, const float *drag,
                   const float *metric, float *to_planes, float *to_table, float *moments, float *temperature,
                   long outputs, long padded, long batch, long codebooks, long K, long V, long positions, long first,
                   long last) {
  if (K == 16 && V == 9)
    turn_back(planes, in, factors, floor, upstream, turned, table, codes, pull, drag, metric, to_planes, to_table,
              moments, temperature, outputs, padded, batch, codebooks, 16, 9, positions, first, last);
  else
    turn_back(planes, in, factors, floor, upstream, turned, table, codes, pull, drag, metric, to_planes, to_table,
              moments, temperature, outputs, padded, batch, codebooks, (int)K, (int)V, positions, first, last);
}

/* The elements that a tree looks at, one a level, in place of all V. */
INLINE windows looked_at(const windows *in, const int32_t *dims, long levels) {
  windows found = *in;
  for (long level = 0; level < levels; level++) found.element[level] = in->element[dims[level]];
  return found;
}

/* codes int32 [B, C, L] of trees: dims int32 [C, levels], splits [C, K - 1] in units of the planes. */
void lutc_tree_codes(const float *planes, const windows *in, const int32_t *dims, const float *splits, int32_t *codes,
                     long levels, long batch, long codebooks, long K, long V, long positions, long first, long last) {
  row tile[LIMIT];
  for (long c = first; c < last; c++) {
    windows seen = looked_at(in, dims + c * levels, levels);
    const float *split = splits + c * (K - 1);
    for (long b = 0; b < batch; b++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        int32_t node[TILE] = {0};
        columns(tile, (float *)planes + index * in->size, &seen, (int)levels, positions, at, 0);
        for (long level = 0; level < levels; level++) {
          const float *x = (const float *)tile[level];
          for (int l = 0; l < TILE; l++) node[l] = 2 * node[l] + 1 + (x[l] >= split[node[l]]);
        }
        for (int l = 0; l < TILE; l++) node[l] -= (int32_t)K - 1;
        long count = positions - at < TILE ? positions - at : TILE;
        memcpy(codes + index * positions + at, node, count * sizeof(int32_t));
      }
    }
  }
}

/* A tree's codebook in a backward: x [levels] are the elements looked at, p [K] how far each leaf is wanted;
   m = (x step - threshold) sharpness at every node. What is found: out [levels], the gradient of x, and added to sums and
   heat those of the thresholds and of the log temperature. */
typedef struct { const float *threshold; float step, sharpness; int levels; vec *sums, heat; } tree;

INLINE vec node_margin(const tree *t, const row *x, int level, int n, int w) {
  return (x[level][w] * t->step - t->threshold[n]) * t->sharpness;
}

/* s = tanh(m); a = softmax over the leaves of the signed sums of s on their paths. */
INLINE void soften(tree *t, const row *x, const row *p, row *a, row *out) {
  row margin[LIMIT], side[LIMIT], heap[2 * LIMIT], sum, inner;
  int levels = t->levels, K = 1 << levels;
  EACH(w) { heap[0][w] = sum[w] = inner[w] = all(0); }
  for (int level = 0, n = 0; level < levels; level++)
    for (int end = 2 * n + 1; n < end; n++)
      EACH(w) {
        vec m = node_margin(t, x, level, n, w);
        vec e = exponential(-2.0f * larger(m, -m)), s = (1.0f - e) * inverse(1.0f + e);
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
  for (int level = levels - 1, n = K - 2; level >= 0; level--) {
    EACH(w) out[level][w] = all(0);
    for (int end = (1 << level) - 1; n >= end; n--)
      EACH(w) {
        vec g = (heap[2 * n + 2][w] - heap[2 * n + 1][w]) * (1.0f - side[n][w] * side[n][w]);
        heap[n][w] = heap[2 * n + 1][w] + heap[2 * n + 2][w];
        t->heat -= g * margin[n][w];
        g *= t->sharpness;
        t->sums[n] -= g;
        out[level][w] += g;
      }
  }
}

/* d = what each comparison on the path would change by falling the other way, the others as they are, times the slope of
   tanh(m) / 2; the codes are those of the path. */
INLINE void flip(tree *t, const row *x, const row *p, int32_t *codes, row *out) {
  row margin[LIMIT], change[LIMIT], heap[LIMIT];
  int levels = t->levels, K = 1 << levels;
  for (int level = levels - 1; level >= 0; level--)
    FEW for (int n = (1 << level) - 1; n < (2 << level) - 1; n++)
      EACH(w) {
        int below = 2 * n + 1;
        vec left = below < K - 1 ? heap[below][w] : p[below - (K - 1)][w];
        vec right = below < K - 1 ? heap[below + 1][w] : p[below + 1 - (K - 1)][w];
        margin[n][w] = node_margin(t, x, level, n, w);
        change[n][w] = right - left;
        heap[n][w] = pick(margin[n][w] >= all(0), right, left);
      }
  EACH(w) {
    ivec reached[LIMIT], code = (ivec){0};
    reached[0] = all(0) == all(0);
    FEW for (int level = 0; level < levels; level++) {
      int first = (1 << level) - 1, end = (2 << level) - 1;
      vec m = margin[first][w], d = change[first][w];
      FEW for (int n = first + 1; n < end; n++) {
        m = pick(reached[n], margin[n][w], m);
        d = pick(reached[n], change[n][w], d);
      }
      vec e = exponential(-2.0f * larger(m, -m)), half = inverse(1.0f + e);
      d *= 2.0f * e * half * half;
      t->heat -= d * m;
      d *= t->sharpness;
      out[level][w] = d;
      code = 2 * code - (m >= all(0));
      FEW for (int n = first; n < end; n++) {
        t->sums[n] -= pick(reached[n], d, all(0));
        if (level + 1 < levels) {
          ivec right = margin[n][w] >= all(0);
          reached[2 * n + 1] = reached[n] & ~right;
          reached[2 * n + 2] = reached[n] & right;
        }
      }
    }
    memcpy(codes + w * LANES, &code, sizeof(code));
  }
}

/* The whole backward of one piece of trees; dims int32 [C, levels], thresholds [C, K - 1] and step [C] of the planes in
   units of x; to_planes is in units of x; to_thresholds [C, K - 1] and temperature [C] are added to; the others as in
   lutc_backward. With `flips` as `flip` finds it, else as `soften`; `flip` has the codes itself. */
INLINE void tree_back(const float *planes, const windows *in, const int32_t *dims, const float *thresholds,
                      const float *step, float sharpness, const float *upstream, const float *turned,
                      const float *table, const int32_t *codes, float *to_planes, float *to_table,
                      float *to_thresholds, float *temperature, int flips, int levels, long outputs, long padded,
                      long batch, long codebooks, long positions, long first, long last) {
  int K = 1 << levels;
  int32_t found[TILE];
  row space[LIMIT], tile[LIMIT], a[LIMIT], p[LIMIT], out[LIMIT];
  memset(a, 0, sizeof(a));
  for (long c = first; c < last; c++) {
    windows seen = looked_at(in, dims + c * levels, levels);
    vec sums[LIMIT];
    tree t = {thresholds + c * (K - 1), step[c], sharpness, levels, sums, all(0)};
    memset(sums, 0, sizeof(sums));
    for (long b = 0; b < batch; b++) {
      long index = b * codebooks + c;
      for (long at = 0; at < positions; at += TILE) {
        const int32_t *code = codes ? codes + index * positions + at : flips ? found : 0;
        wanted(p, table + c * K * outputs, upstream + b * outputs * positions, K, outputs, positions, at, space);
        columns(tile, (float *)planes + index * in->size, &seen, levels, positions, at, 0);
        if (flips) flip(&t, tile, p, found, out);
        else soften(&t, tile, p, a, out);
        columns(out, to_planes + index * in->size, &seen, levels, positions, at, 1);
        learn(to_table + c * K * padded, a, code, turned + b * positions * padded, K, padded, positions, at);
      }
    }
    for (int n = 0; n < K - 1; n++)
      for (int l = 0; l < LANES; l++) to_thresholds[c * (K - 1) + n] += sums[n][l];
    for (int l = 0; l < LANES; l++) temperature[c] += t.heat[l];
  }
}

#define TREE_BACK(flips, levels)                                                                                       \
  tree_back(planes, in, dims, thresholds, step, sharpness, upstream, turned, table, codes, to_planes, to_table,        \
            to_thresholds, temperature, flips, levels, outputs, padded, batch, codebooks, positions, first, last)

void lutc_tree_backward(const float *planes, const windows *in, const int32_t *dims, const float *thresholds,
                        const float *step, float sharpness, const float *upstream, const float *turned,
                        const float *table, const int32_t *codes, float *to_planes, float *to_table,
                        float *to_thresholds, float *temperature, long flips, long levels, long outputs, long padded,
                        long batch, long codebooks, long K, long V, long positions, long first, long last) {
  if (flips && levels == 4) TREE_BACK(1, 4);
  else if (flips) TREE_BACK(1, (int)levels);
  else TREE_BACK(0, (int)levels);
}
