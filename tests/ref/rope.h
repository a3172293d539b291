/* rope.h - f64 reference of ops/rope.h. */
#pragma once

#include "ops/rope.h"

/*
 * cos[p,i], sin[p,i] of P positions and E/2 frequencies, all in double. angle_mag[p,i] is the
 * angle without llama3 scaling: what the roundings of the f32 angle are relative to.
 */
void ref_rope_table(const csp_rope *rope, int64_t P, int64_t E, double *cos_table,
                    double *sin_table, double *angle_mag);
