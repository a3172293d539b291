/*
 * product.h - the arithmetic behind the fake cuBLAS, cuBLASLt and cuSPARSE: dense matrices in
 * device memory of any storage type and order, and their product in f32.
 */
#pragma once

#include <library_types.h>
#include <stdint.h>

#include "emulator/internals.h"

/* What both libraries say their version is: CSP_EMU_CUBLAS, or that of their headers. */
int emu_cublas_version(void);

namespace emu
{

struct Matrix {
    void *p;
    cudaDataType type;
    int64_t rows, cols, ld;
    bool row_order;
    int64_t batch_stride; /* elements between the matrices of a batch */
};

/* How operands are rounded before they are multiplied. */
enum Rounding { ROUND_NOT, ROUND_TF32, ROUND_BF16 };

struct Product {
    Matrix a, b, c, d; /* c is not looked at where beta is 0 */
    bool transpose_a, transpose_b;
    float alpha, beta;
    Rounding rounding;
    int parts;                /* of the sum over k, each added up alone; 0 is 1                   */
    bool rounds_partial_sums; /* to the type of d, as split sums may be where it is not forbidden */
    int64_t batches;
    const void *bias; /* one for each row of d, NULL: none */
    cudaDataType bias_type;
    bool relu, gelu;
    const float *scale_a, *scale_b; /* of each row and of each column of a b, NULL: none */
    void *workspace;                /* filled with garbage, as a library may leave it */
    size_t workspace_bytes;
    const char *who;
};

/* Bytes of an element; 0 where the type is not one that is emulated. */
size_t element_bytes(cudaDataType type);
float load_element(const void *p, cudaDataType type, int64_t i);
void store_element(void *p, cudaDataType type, int64_t i, float value);

/* True if the matrix has a size, a type and a leading dimension that go together. */
bool is_matrix(const Matrix &m);

/* d := act(alpha scale_a op(a) op(b) scale_b + beta c + bias). Runs as device work. */
void multiply(const Product &product);

/* Ends the process unless every row or column of m may be read (or written). */
void check_matrix(const Matrix &m, bool writes, const char *who);
void spoil(void *workspace, size_t bytes, const char *who);

} // namespace emu
