/*
 * gather.h - the product of a sparse row with a dense matrix. Private to this folder.
 */
#pragma once

#include <stdint.h>

/*
 * out[c] += sum over i of coefficient[i] · rows[index[i]·stride + c], c < width, i ascending.
 *
 *   index, coefficient   count of each; coefficients of 0 are added like any other
 *   out                  not among rows
 *
 * On the calling thread. The order of additions is that of i, in every build.
 */
void cpu_gather_add(int64_t count, const int32_t *index, const float *coefficient,
                    const float *rows, int64_t stride, int64_t width, float *out);
