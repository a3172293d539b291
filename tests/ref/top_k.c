/* top_k.c - counts for each entry those that are larger, or equal and of a lower term. */
#include "ref/top_k.h"

void ref_top_k(const double *w, int64_t rows, int64_t V, int64_t k, double *kept)
{
    for (int64_t b = 0; b < rows; b++) {
        for (int64_t v = 0; v < V; v++) {
            int64_t before = 0;

            for (int64_t u = 0; u < V; u++) {
                const double x = w[b * V + u];

                before += x > w[b * V + v] || (x == w[b * V + v] && u < v);
            }
            kept[b * V + v] = before < k ? w[b * V + v] : 0.0;
        }
    }
}
