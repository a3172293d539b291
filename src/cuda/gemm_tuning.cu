/*
 * gemm_tuning.cu - the timed choices of a backend, as the text that a checkpoint carries:
 *
 *     cublaslt 130100 9.0 132 NVIDIA H200        library, capability, multiprocessors, device
 *     1024 2048 2048 2048 2048 2048 0 1 1 1 16 16 16 0 <algorithm, 8 numbers in hexadecimal>
 *
 * one line for each choice: the members of its cuda_gemm_key in their order, then the algorithm,
 * which means something to the same version of the library only.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "device.h"
#include "gemm.h"
#include "launch.cuh"

enum { SIZES = 6, BYTES = 8, WORDS = 8, LINE_BYTES = SIZES * 21 + BYTES * 4 + WORDS * 17 + 2 };

static_assert(sizeof(cublasLtMatmulAlgo_t) == WORDS * sizeof(uint64_t), "written as eight words");

/* A key as its line has it. */
typedef struct key_numbers {
    int64_t size[SIZES];
    uint8_t byte[BYTES];
} key_numbers;

static_assert(sizeof(key_numbers) == sizeof(cuda_gemm_key), "its members in their order");

csp_status cuda_gemm_remember(cuda_gemm_state *g, const cuda_gemm_key *key,
                              const cublasLtMatmulAlgo_t *algorithm)
{
    CSP_TRY(csp_realloc("matrix product", g->choice_count + 1, sizeof(*g->choices), &g->choices));
    g->choices[g->choice_count].key = *key;
    g->choices[g->choice_count].algorithm = *algorithm;
    g->choice_count++;
    return CSP_OK;
}

const cublasLtMatmulAlgo_t *cuda_gemm_recall(const cuda_gemm_state *g, const cuda_gemm_key *key)
{
    for (int64_t i = 0; i < g->choice_count; i++) {
        if (memcmp(&g->choices[i].key, key, sizeof(*key)) == 0) {
            return &g->choices[i].algorithm;
        }
    }
    return NULL;
}

/* The first line: what choices are good for. */
static csp_status write_origin(const cuda_state *state, char *line, size_t bytes)
{
    struct cudaDeviceProp p;

    CUDA_TRY(cudaGetDeviceProperties(&p, state->device));
    (void)snprintf(line, bytes, "cublaslt %zu %d.%d %d %s", cublasLtGetVersion(), p.major, p.minor,
                   p.multiProcessorCount, p.name);
    return CSP_OK;
}

static size_t write_choice(const cuda_gemm_choice *choice, char *line)
{
    key_numbers key;
    size_t used = 0;

    memcpy(&key, &choice->key, sizeof(key));
    for (int i = 0; i < SIZES; i++) {
        used += (size_t)snprintf(line + used, LINE_BYTES - used, "%" PRId64 " ", key.size[i]);
    }
    for (int i = 0; i < BYTES; i++) {
        used += (size_t)snprintf(line + used, LINE_BYTES - used, "%d ", key.byte[i]);
    }
    for (int i = 0; i < WORDS; i++) {
        used += (size_t)snprintf(line + used, LINE_BYTES - used, "%" PRIx64 "%c",
                                 choice->algorithm.data[i], i < WORDS - 1 ? ' ' : '\n');
    }
    return used;
}

csp_status cuda_tuning_get(csp_backend *be, char **text)
{
    const cuda_state *state = cuda_state_of(be);
    const cuda_gemm_state *g = &state->gemm;
    char origin[512], *all;
    size_t used;

    CSP_TRY(write_origin(state, origin, sizeof(origin)));
    used = strlen(origin) + 1;
    CSP_TRY(csp_alloc("tuning", (int64_t)used + g->choice_count * LINE_BYTES + 1, 1, &all));
    (void)snprintf(all, used + 1, "%s\n", origin);
    for (int64_t i = 0; i < g->choice_count; i++) {
        used += write_choice(&g->choices[i], all + used);
    }
    *text = all;
    return CSP_OK;
}

/* The next number of a line in [0, most]; false where there is none. */
static bool read_number(const char **at, int base, uint64_t most, uint64_t *out)
{
    char *end;

    errno = 0;
    *out = strtoull(*at, &end, base);
    if (end == *at || errno != 0 || *out > most) {
        return false;
    }
    *at = end;
    return true;
}

static bool read_choice(const char **at, cuda_gemm_choice *choice)
{
    key_numbers key;
    uint64_t number;

    for (int i = 0; i < SIZES; i++) {
        if (!read_number(at, 10, INT64_MAX, &number)) {
            return false;
        }
        key.size[i] = (int64_t)number;
    }
    for (int i = 0; i < BYTES; i++) {
        if (!read_number(at, 10, UINT8_MAX, &number)) {
            return false;
        }
        key.byte[i] = (uint8_t)number;
    }
    for (int i = 0; i < WORDS; i++) {
        if (!read_number(at, 16, UINT64_MAX, &choice->algorithm.data[i])) {
            return false;
        }
    }
    memcpy(&choice->key, &key, sizeof(key));
    return *(*at)++ == '\n';
}

static void forget_choices(cuda_gemm_state *g)
{
    cuda_gemm_forget(g);
    free(g->choices);
    g->choices = NULL;
    g->choice_count = 0;
}

csp_status cuda_tuning_set(csp_backend *be, const char *text)
{
    cuda_state *state = cuda_state_of(be);
    const size_t first = strcspn(text, "\n");
    char origin[512];
    csp_status status = CSP_OK;

    CSP_TRY(write_origin(state, origin, sizeof(origin)));
    if (strlen(origin) != first || memcmp(origin, text, first) != 0) {
        return CSP_FAIL(CSP_ERR_UNSUPPORTED,
                        "algorithms of matrix products were chosen by \"%.*s\", and this is \"%s\"",
                        (int)(first < 200 ? first : 200), text, origin);
    }
    forget_choices(&state->gemm);
    cuda_graphs_forget(&state->graphs);
    for (const char *at = text + first + (text[first] == '\n'); *at != '\0' && status == CSP_OK;) {
        cuda_gemm_choice choice;

        status = read_choice(&at, &choice)
                     ? cuda_gemm_remember(&state->gemm, &choice.key, &choice.algorithm)
                     : CSP_FAIL(CSP_ERR_FORMAT, "algorithms of matrix products: no line of them "
                                                "where one is expected");
    }
    if (status != CSP_OK) {
        forget_choices(&state->gemm);
    }
    return status;
}

csp_status cuda_versions(csp_backend *be, char text[CSP_VERSIONS_BYTES])
{
    int driver, blas[3];

    CUDA_TRY(cudaDriverGetVersion(&driver));
    if (cublasGetProperty(MAJOR_VERSION, &blas[0]) != CUBLAS_STATUS_SUCCESS ||
        cublasGetProperty(MINOR_VERSION, &blas[1]) != CUBLAS_STATUS_SUCCESS ||
        cublasGetProperty(PATCH_LEVEL, &blas[2]) != CUBLAS_STATUS_SUCCESS) {
        return CSP_FAIL(CSP_ERR_DEVICE, "%s: cuBLAS does not say its version", be->name);
    }
    (void)snprintf(text, CSP_VERSIONS_BYTES, "driver CUDA %d.%d\ncublas %d.%d.%d\n", driver / 1000,
                   driver % 1000 / 10, blas[0], blas[1], blas[2]);
    return CSP_OK;
}
