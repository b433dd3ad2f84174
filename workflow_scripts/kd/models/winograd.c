/* Winograd F(4x4, 3x3) convolutions (Lavin and Gray, CVPR 2016): float32, NHWC, stride 1, padding 1.
 *
 * A tile of 4x4 outputs needs 36 products a pair of channels instead of 144: tiles of the input are transformed to 6x6
 * (B^T d B), multiplied with the transformed weights as 36 matrix products, and transformed back (A^T m A). A pass keeps
 * the transformed tiles of a few images in the cache. Channels are multiples of 32; every result is the same bits for
 * any number of threads in the convolution, and for a given number of threads in the weights' gradient.
 */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, PANEL = 32, PLANES = 36, TILES_A_BLOCK = 64, PAD = 16 };

/* 16 floats: one AVX-512 register, or what the compiler makes of it elsewhere */
typedef float vec __attribute__((vector_size(64), aligned(4)));
typedef int mask __attribute__((vector_size(64)));

static inline vec load(const float *from) { return *(const vec *)from; }
static inline void store(float *to, vec value) { *(vec *)to = value; }

/* --- matrix products ------------------------------------------------------------------------ */

/* out[R][32] (+)= a[R][depth] b[depth][32]; element (r, k) of a stands at a[r * row + k * column] */
#define KERNEL(R)                                                                                          \
    static void kernel##R(const float *restrict a, long row, long column, const float *restrict b, long ldb, \
                          float *restrict out, long ldo, long depth, int add) {                            \
        vec sum[R][2];                                                                                     \
        for (int r = 0; r < R; r++) {                                                                      \
            sum[r][0] = add ? load(out + r * ldo) : (vec){0};                                              \
            sum[r][1] = add ? load(out + r * ldo + LANES) : (vec){0};                                      \
        }                                                                                                  \
        for (long k = 0; k < depth; k++, a += column, b += ldb) {                                          \
            vec left = load(b), right = load(b + LANES);                                                   \
            _Pragma("GCC unroll 12") for (int r = 0; r < R; r++) {                                         \
                float scale = a[r * row];                                                                  \
                sum[r][0] += scale * left;                                                                 \
                sum[r][1] += scale * right;                                                                \
            }                                                                                              \
        }                                                                                                  \
        for (int r = 0; r < R; r++) {                                                                      \
            store(out + r * ldo, sum[r][0]);                                                               \
            store(out + r * ldo + LANES, sum[r][1]);                                                       \
        }                                                                                                  \
    }

KERNEL(12) KERNEL(8) KERNEL(4) KERNEL(2) KERNEL(1)

/* out[rows][columns] (+)= a b, panel by panel of 32 columns; panel p of b starts at b + p * panel */
static void product(const float *a, long row, long column, const float *b, long ldb, long panel, float *out, long ldo,
                    long rows, long columns, long depth, int add) {
    for (long n = 0; n < columns; n += PANEL, b += panel) {
        long r = 0;
        for (; r + 12 <= rows; r += 12) kernel12(a + r * row, row, column, b, ldb, out + r * ldo + n, ldo, depth, add);
        for (; r + 8 <= rows; r += 8) kernel8(a + r * row, row, column, b, ldb, out + r * ldo + n, ldo, depth, add);
        for (; r + 4 <= rows; r += 4) kernel4(a + r * row, row, column, b, ldb, out + r * ldo + n, ldo, depth, add);
        for (; r + 2 <= rows; r += 2) kernel2(a + r * row, row, column, b, ldb, out + r * ldo + n, ldo, depth, add);
        for (; r < rows; r++) kernel1(a + r * row, row, column, b, ldb, out + r * ldo + n, ldo, depth, add);
    }
}

/* --- transforms of tiles -------------------------------------------------------------------- */

static inline void input_transform(const vec d[6], vec o[6]) { /* B^T d */
    vec a = d[4] - 4 * d[2], b = d[3] - 4 * d[1], c = d[4] - d[2], e = 2 * (d[3] - d[1]);
    o[0] = 4 * d[0] - 5 * d[2] + d[4];
    o[1] = a + b;
    o[2] = a - b;
    o[3] = c + e;
    o[4] = c - e;
    o[5] = 4 * d[1] - 5 * d[3] + d[5];
}

static inline void output_transform(const vec m[6], vec o[4]) { /* A^T m */
    vec p = m[1] + m[2], q = m[1] - m[2], r = m[3] + m[4], s = m[3] - m[4];
    o[0] = m[0] + p + r;
    o[1] = q + 2 * s;
    o[2] = p + 4 * r;
    o[3] = q + 8 * s + m[5];
}

static inline void gradient_transform(const vec y[4], vec o[6]) { /* A y */
    vec p = y[0] + y[2], q = y[1] + y[3], r = y[0] + 4 * y[2], s = 2 * y[1] + 8 * y[3];
    o[0] = y[0];
    o[1] = p + q;
    o[2] = p - q;
    o[3] = r + s;
    o[4] = r - s;
    o[5] = y[3];
}

typedef struct {
    long images, height, width, channels;
} shape;

static inline long tiles_of(shape s) { return ((s.height + 3) / 4) * ((s.width + 3) / 4); }

static inline vec pixel(const float *x, shape s, long image, long h, long w, long c) {
    if (h < 0 || w < 0 || h >= s.height || w >= s.width) return (vec){0};
    return load(x + ((image * s.height + h) * s.width + w) * s.channels + c);
}

/* planes[36][tiles][channels] of images first..last */
static void transform_input(const float *x, shape s, long first, long last, float *planes, long plane) {
    long t = 0;
    for (long i = first; i < last; i++)
        for (long top = 0; top < s.height; top += 4)
            for (long side = 0; side < s.width; side += 4, t++)
                for (long c = 0; c < s.channels; c += LANES) {
                    vec half[6][6], line[6], out[6];
                    for (int v = 0; v < 6; v++) {
                        for (int u = 0; u < 6; u++) line[u] = pixel(x, s, i, top + u - 1, side + v - 1, c);
                        input_transform(line, out);
                        for (int u = 0; u < 6; u++) half[u][v] = out[u];
                    }
                    for (int u = 0; u < 6; u++) {
                        input_transform(half[u], out);
                        for (int v = 0; v < 6; v++) store(planes + (u * 6 + v) * plane + t * s.channels + c, out[v]);
                    }
                }
}

/* the same of the gradient of the output, whose tiles are 4x4 and do not overlap */
static void transform_gradient(const float *g, shape s, long first, long last, float *planes, long plane) {
    long t = 0;
    for (long i = first; i < last; i++)
        for (long top = 0; top < s.height; top += 4)
            for (long side = 0; side < s.width; side += 4, t++)
                for (long c = 0; c < s.channels; c += LANES) {
                    vec half[6][4], line[4], out[6];
                    for (int v = 0; v < 4; v++) {
                        for (int u = 0; u < 4; u++) line[u] = pixel(g, s, i, top + u, side + v, c);
                        gradient_transform(line, out);
                        for (int u = 0; u < 6; u++) half[u][v] = out[u];
                    }
                    for (int u = 0; u < 6; u++) {
                        gradient_transform(half[u], out);
                        for (int v = 0; v < 6; v++) store(planes + (u * 6 + v) * plane + t * s.channels + c, out[v]);
                    }
                }
}

static void transform_output(const float *planes, long plane, shape s, long first, long last, const float *bias,
                             float *y) {
    long t = 0;
    for (long i = first; i < last; i++)
        for (long top = 0; top < s.height; top += 4)
            for (long side = 0; side < s.width; side += 4, t++)
                for (long c = 0; c < s.channels; c += LANES) {
                    vec half[4][6], line[6], out[4], shift = bias ? load(bias + c) : (vec){0};
                    for (int v = 0; v < 6; v++) {
                        for (int u = 0; u < 6; u++) line[u] = load(planes + (u * 6 + v) * plane + t * s.channels + c);
                        output_transform(line, out);
                        for (int u = 0; u < 4; u++) half[u][v] = out[u];
                    }
                    for (int u = 0; u < 4 && top + u < s.height; u++) {
                        output_transform(half[u], out);
                        float *to = y + ((i * s.height + top + u) * s.width + side) * s.channels + c;
                        for (int v = 0; v < 4 && side + v < s.width; v++, to += s.channels) store(to, out[v] + shift);
                    }
                }
}

/* --- what Python calls: 0, or 1 where memory is short ---------------------------------------- */

static float *floats(size_t count) { return aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64); }

static long images_a_block(shape s) {
    long images = (TILES_A_BLOCK + tiles_of(s) - 1) / tiles_of(s);
    return images < s.images ? images : s.images;
}

/* y = conv(x, w) + bias; weights are [36][outputs / 32][inputs][32] */
int winograd_convolution(const float *x, const float *weights, const float *bias, float *y, long images, long height,
                         long width, long inputs, long outputs) {
    shape in = {images, height, width, inputs}, out = {images, height, width, outputs};
    long step = images_a_block(in), room = step * tiles_of(in);
    size_t before = PLANES * (room * inputs + PAD), after = PLANES * (room * outputs + PAD);
    float *memory = floats((before + after) * omp_get_max_threads());
    if (!memory) return 1;
#pragma omp parallel for schedule(dynamic, 1)
    for (long first = 0; first < images; first += step) {
        long last = first + step < images ? first + step : images, tiles = (last - first) * tiles_of(in);
        float *source = memory + (before + after) * omp_get_thread_num(), *result = source + before;
        long from = tiles * inputs + PAD, to = tiles * outputs + PAD;
        transform_input(x, in, first, last, source, from);
        for (long k = 0; k < PLANES; k++)
            product(source + k * from, inputs, 1, weights + k * outputs * inputs, PANEL, inputs * PANEL,
                    result + k * to, outputs, tiles, outputs, inputs, 0);
        transform_output(result, to, out, first, last, bias, y);
    }
    free(memory);
    return 0;
}

/* gradient[36][inputs][outputs] of the transformed weights, summed over all tiles */
int winograd_weight_gradient(const float *x, const float *g, float *gradient, long images, long height, long width,
                             long inputs, long outputs) {
    shape in = {images, height, width, inputs}, out = {images, height, width, outputs};
    long step = images_a_block(in) * (inputs * outputs >= 16384 ? 8 : 2);
    if (step > images) step = images;
    long room = step * tiles_of(in), threads = omp_get_max_threads();
    size_t size = (size_t)PLANES * inputs * outputs;
    size_t before = PLANES * (room * inputs + PAD), after = PLANES * (room * outputs + PAD), own = before + after + size;
    float *memory = floats(own * threads);
    if (!memory) return 1;
    for (long n = 0; n < threads; n++) memset(memory + n * own + before + after, 0, size * sizeof(float));
#pragma omp parallel for schedule(static)
    for (long first = 0; first < images; first += step) {
        long last = first + step < images ? first + step : images, tiles = (last - first) * tiles_of(in);
        float *source = memory + own * omp_get_thread_num(), *change = source + before, *sum = change + after;
        long from = tiles * inputs + PAD, to = tiles * outputs + PAD;
        transform_input(x, in, first, last, source, from);
        transform_gradient(g, out, first, last, change, to);
        for (long k = 0; k < PLANES; k++)
            product(source + k * from, 1, inputs, change + k * to, outputs, PANEL, sum + k * inputs * outputs, outputs,
                    inputs, outputs, tiles, 1);
    }
    /* in the order of the threads, not of their ends */
#pragma omp parallel for schedule(static)
    for (size_t j = 0; j < size; j++) {
        float sum = 0;
        for (long n = 0; n < threads; n++) sum += memory[n * own + before + after + j];
        gradient[j] = sum;
    }
    free(memory);
    return 0;
}
