/* impacts.h - reference of ops/impacts.h, on dense rows: 0 is a term that is not stored. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct ref_impact_counts {
    int64_t dropped, clipped;
    double largest;
} ref_impact_counts;

/*
 * impact[b,v] = min(round(scale w[b,v]), most), or ceil in place of round; infinity where w is;
 * both (rows,V). Counts are over w > 0, largest over what is stored.
 */
void ref_impacts(const double *w, int64_t rows, int64_t V, bool up, double scale, double most,
                 double *impact, ref_impact_counts *counts);
