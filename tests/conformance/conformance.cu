/*
 * conformance.cu - runs the cases of cases.h and writes what came out, or compares it with a file
 * of another run: a GPU and the emulator must agree, bit for bit or within each case's limit.
 *
 *   conformance --write FILE [--device N]     the file appears when all cases have run
 *   conformance --compare FILE [--device N]   exit 1 and the first difference of each case that
 *                                             differs; 77 without FILE, or without a device
 *   conformance --list
 *
 * The file is text: lines of "# ..." say where it comes from; then for each case its name, rule,
 * and words in hexadecimal, eight a line. It is kept as tests/fixtures/conformance/gpu.txt.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"
#include "core/rng.h"

#define SKIPPED 77
/* Before the first case, so that fixtures of other inputs are never compared. */
#define FORMAT "# csplade conformance 1\n"

#define CUDA_OR_FALSE(call)                                                              \
    do {                                                                                 \
        const cudaError_t error_ = (call);                                               \
        if (error_ != cudaSuccess) {                                                     \
            fprintf(stderr, "conformance: %s: %s\n", #call, cudaGetErrorString(error_)); \
            return false;                                                                \
        }                                                                                \
    } while (0)

static const char *const rule_names[] = { "bits", "floats", "relative", "bfloats", "magnitude" };

static float as_float(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint32_t as_bits(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* Word number i of the inputs of case number key. */
static uint32_t input_word(conform_input kind, uint32_t key, int i)
{
    const csp_rng rng = { 1, CSP_DRAW_TEST, key, 0 };
    const uint32_t word = csp_rng_u32(rng, (uint64_t)i);

    switch (kind) {
    case INPUT_BITS:
        return word;
    case INPUT_FLOATS: /* an exponent of all ones would not be finite */
        return (word & 0x7F800000u) == 0x7F800000u ? word & 0xBFFFFFFFu : word;
    case INPUT_NORMALS:
        return as_bits(csp_rng_normal(rng, (uint64_t)i));
    case INPUT_POSITIVE:
        return as_bits(100.0f * (csp_rng_uniform(rng, (uint64_t)i) + 0x1p-25f));
    default:
        return as_bits((float)(int)(word % 17) - 8.0f);
    }
}

/* Runs one case on fresh memory; out was 0 before. */
static bool run_case(const conform_group *group, const conform_case *c, uint32_t key,
                     cudaStream_t stream, uint32_t *out)
{
    const size_t in_bytes = (size_t)c->in_words * 4, out_bytes = (size_t)c->out_words * 4;
    uint32_t *in = (uint32_t *)malloc(in_bytes), *device_in, *device_out;

    if (in == NULL) {
        return false;
    }
    for (int i = 0; i < c->in_words; i++) {
        in[i] = input_word(c->input, key, i);
    }
    CUDA_OR_FALSE(cudaMalloc((void **)&device_in, in_bytes));
    CUDA_OR_FALSE(cudaMalloc((void **)&device_out, out_bytes));
    CUDA_OR_FALSE(cudaMemcpyAsync(device_in, in, in_bytes, cudaMemcpyHostToDevice, stream));
    CUDA_OR_FALSE(cudaMemsetAsync(device_out, 0, out_bytes, stream));
    if (group->run != NULL) {
        CUDA_OR_FALSE(group->run(c, device_in, device_out, stream));
    } else {
        if (c->shared_bytes > 48 * 1024) {
            CUDA_OR_FALSE(cu::allow_shared(c->kernel, c->shared_bytes));
        }
        CUDA_OR_FALSE(cu::launch(c->kernel, (unsigned)c->blocks, (unsigned)c->threads,
                                 c->shared_bytes, stream, device_in, device_out));
    }
    CUDA_OR_FALSE(cudaMemcpyAsync(out, device_out, out_bytes, cudaMemcpyDeviceToHost, stream));
    CUDA_OR_FALSE(cudaStreamSynchronize(stream));
    CUDA_OR_FALSE(cudaFree(device_in));
    CUDA_OR_FALSE(cudaFree(device_out));
    free(in);
    return true;
}

static bool same_float(uint32_t x, uint32_t y)
{
    const float a = as_float(x), b = as_float(y);

    return x == y || a == b || (isnan(a) && isnan(b));
}

static bool within(float got, float want, double limit)
{
    if (!isfinite(got) || !isfinite(want)) {
        return same_float(as_bits(got), as_bits(want));
    }
    return fabs((double)got - (double)want) <= limit;
}

/* Whether word i of got agrees with that of want. */
static bool agrees(const conform_case *c, const uint32_t *got, const uint32_t *want, int i)
{
    const float value = as_float(want[i]);

    switch (c->rule) {
    case RULE_BITS:
        return got[i] == want[i];
    case RULE_FLOATS:
        return same_float(got[i], want[i]);
    case RULE_RELATIVE:
        return within(as_float(got[i]), value, c->limit * fabs((double)value));
    case RULE_BFLOATS:
        for (int half = 0; half < 2; half++) {
            const float x = as_float(got[i] << (16 - 16 * half) & 0xFFFF0000u);
            const float y = as_float(want[i] << (16 - 16 * half) & 0xFFFF0000u);

            if (!within(x, y, c->limit * fabs((double)y))) {
                return false;
            }
        }
        return true;
    default: /* the second word of a pair says how large the terms of the first are */
        return i % 2 == 1 || within(as_float(got[i]), value, c->limit * as_float(want[i + 1]));
    }
}

static bool compare_case(const conform_case *c, const uint32_t *got, const uint32_t *want)
{
    int apart = 0, first = -1;

    for (int i = 0; i < c->out_words; i++) {
        if (!agrees(c, got, want, i)) {
            first = first < 0 ? i : first;
            apart++;
        }
    }
    if (apart > 0) {
        printf("differs  %s: %d of %d words, the first is %d: 0x%08x (%g) here, 0x%08x (%g) in the "
               "file\n",
               c->name, apart, c->out_words, first, got[first], as_float(got[first]), want[first],
               as_float(want[first]));
    } else {
        printf("agrees   %s\n", c->name);
    }
    return apart == 0;
}

static bool write_case(FILE *file, const conform_case *c, const uint32_t *words)
{
    fprintf(file, "case %s\n%s %d\n", c->name, rule_names[c->rule], c->out_words);
    for (int i = 0; i < c->out_words; i++) {
        fprintf(file, "%08x%c", words[i], i % 8 == 7 || i == c->out_words - 1 ? '\n' : ' ');
    }
    return ferror(file) == 0;
}

/* The words of the next case, which must be c. */
static bool read_case(FILE *file, const conform_case *c, uint32_t *words)
{
    char line[256], want[256];

    do {
        if (fgets(line, sizeof(line), file) == NULL) {
            printf("differs  %s: the file ends before it\n", c->name);
            return false;
        }
    } while (line[0] == '#');
    snprintf(want, sizeof(want), "case %s\n", c->name);
    if (strcmp(line, want) != 0) {
        printf("differs  %s: the file has %s", c->name, line);
        return false;
    }
    snprintf(want, sizeof(want), "%s %d\n", rule_names[c->rule], c->out_words);
    if (fgets(line, sizeof(line), file) == NULL || strcmp(line, want) != 0) {
        printf("differs  %s: its size or rule in the file is another\n", c->name);
        return false;
    }
    for (int i = 0; i < c->out_words; i++) {
        if (fscanf(file, "%8x", &words[i]) != 1) {
            printf("differs  %s: no word %d in the file\n", c->name, i);
            return false;
        }
    }
    return fgets(line, sizeof(line), file) != NULL; /* the end of the last line */
}

/* The groups in the order of the file, in which that of Hopper's own cases is the last. */
enum { GROUPS = 6, HOPPER_GROUP = 5 };

static conform_group group_of(int number)
{
    const conform_group groups[GROUPS] = { conform_scalar_cases(), conform_bfloat_cases(),
                                           conform_warp_cases(),   conform_block_cases(),
                                           conform_matrix_cases(), conform_tile_cases() };

    return groups[number];
}

/* Whether the device, and the file if there is something to read, has the cases of the group. */
static bool has_group(FILE *file, bool is_write, int number, const struct cudaDeviceProp *device)
{
    const bool here = number != HOPPER_GROUP || (device->major == 9 && device->minor == 0);

    if (!here) {
        printf("skipped  cases of compute capability 9.0: the device has %d.%d\n", device->major,
               device->minor);
    } else if (number == HOPPER_GROUP && !is_write) {
        const int next = getc(file);

        if (next == EOF) {
            printf("skipped  cases of compute capability 9.0: the file's device had another\n");
            return false;
        }
        (void)ungetc(next, file);
    }
    return here;
}

/* All cases, in the order of the file. Returns whether each was written, or agrees. */
static bool run_all(FILE *file, bool is_write, const struct cudaDeviceProp *device,
                    cudaStream_t stream)
{
    conform_group groups[GROUPS];
    uint32_t key = 0;
    bool good = true;

    for (int g = 0; g < GROUPS; g++) {
        groups[g] = group_of(g);
        if (!has_group(file, is_write, g, device)) {
            continue;
        }
        for (int i = 0; i < groups[g].count; i++, key++) {
            const conform_case *c = &groups[g].cases[i];
            uint32_t *got = (uint32_t *)calloc((size_t)c->out_words, 4);
            uint32_t *want = (uint32_t *)calloc((size_t)c->out_words, 4);
            bool ran = got != NULL && want != NULL && run_case(&groups[g], c, key, stream, got);

            if (ran && is_write) {
                ran = write_case(file, c, got);
            } else if (ran) {
                /* Without its place in the file nothing behind it can be read either. */
                ran = read_case(file, c, want);
                good = (ran && compare_case(c, got, want)) && good;
            }
            free(got);
            free(want);
            if (!ran) {
                return false;
            }
        }
    }
    return good;
}

static bool write_file(const char *path, const struct cudaDeviceProp *device, cudaStream_t stream)
{
    char partial[4096];
    FILE *file;
    int runtime = 0, driver = 0;
    bool good;

    snprintf(partial, sizeof(partial), "%s.partial", path);
    file = fopen(partial, "w");
    if (file == NULL) {
        perror(partial);
        return false;
    }
    (void)cudaRuntimeGetVersion(&runtime);
    (void)cudaDriverGetVersion(&driver);
    fprintf(file, FORMAT "# %s, CUDA %d.%d, driver for CUDA %d.%d\n", device->name, runtime / 1000,
            runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    good = run_all(file, true, device, stream);
    good = fclose(file) == 0 && good;
    return good && rename(partial, path) == 0;
}

static int compare_file(const char *path, const struct cudaDeviceProp *device, cudaStream_t stream)
{
    char line[256];
    FILE *file = fopen(path, "r");
    bool good;

    if (file == NULL) {
        fprintf(stderr, "skipped: %s is not there: no GPU has written it yet\n", path);
        return SKIPPED;
    }
    if (fgets(line, sizeof(line), file) == NULL || strcmp(line, FORMAT) != 0) {
        fprintf(stderr, "conformance: %s does not begin with %s", path, FORMAT);
        fclose(file);
        return EXIT_FAILURE;
    }
    if (fgets(line, sizeof(line), file) != NULL) {
        printf("compared with %s", line + 2);
    }
    good = run_all(file, false, device, stream);
    fclose(file);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int list(void)
{
    for (int g = 0; g < GROUPS; g++) {
        const conform_group group = group_of(g);

        for (int i = 0; i < group.count; i++) {
            printf("%s (%s)\n", group.cases[i].name, rule_names[group.cases[i].rule]);
        }
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    const bool is_write = argc > 2 && strcmp(argv[1], "--write") == 0;
    const bool is_compare = argc > 2 && strcmp(argv[1], "--compare") == 0;
    const int device =
        argc > 4 && strcmp(argv[3], "--device") == 0 ? (int)strtol(argv[4], NULL, 10) : 0;
    struct cudaDeviceProp properties;
    cudaStream_t stream;
    cudaError_t error;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        return list();
    }
    if (!is_write && !is_compare) {
        fprintf(stderr, "usage: conformance --write FILE | --compare FILE [--device N] | --list\n");
        return 2;
    }
    error = cudaGetDeviceProperties(&properties, device);
    if (error == cudaSuccess) {
        error = cudaSetDevice(device);
    }
    if (error == cudaSuccess) {
        error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    }
    if (error != cudaSuccess) {
        fprintf(stderr, "skipped: device %d: %s\n", device, cudaGetErrorString(error));
        return SKIPPED;
    }
    if (is_compare) {
        return compare_file(argv[2], &properties, stream);
    }
    return write_file(argv[2], &properties, stream) ? EXIT_SUCCESS : EXIT_FAILURE;
}
