/*
 * attention_cases.h - the batches that the tests of attention run, apart from them so that
 * tests/cuda/test_attention_pick.c can say which kernels of a device they reach.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* What an emulated device runs a case as: only the types that reach kernels no other case does. */
enum { AS_F32 = 1, AS_BF16 = 2, AS_BOTH = 3 };

typedef struct attention_case {
    int64_t H, G, E, B;
    int64_t length[5];
    bool causal;
    int64_t claim; /* the longest text the call speaks of, where that is more than there is */
    int emulated;
} attention_case;

/*
 * Edges on purpose: one row, empty texts, the narrowest head, groups of 1 and more, one less and
 * one more than a block of queries (32), the shapes of Qwen3 (head wider than D/H). From FIRST_LONG
 * on texts are longer than CUDA devices hold at once, for each of the widths (32, 64, 128, 256)
 * that heads are rounded up to there. From FIRST_BF16 on heads are of the widths that tensor core
 * kernels take as bf16: with texts of as many keys as 4, 8 and 16 warps have, in one piece and,
 * where longer ones are claimed, in tiles. From FIRST_TEAMS on there are so many short pieces that
 * a block of an emulated device has several.
 */
static const attention_case attention_cases[] = {
    { 1, 1, 2, 1, { 1 }, true, 0, AS_BOTH },
    { 2, 1, 4, 3, { 0, 3, 0 }, true, 0, AS_BOTH },
    { 4, 2, 6, 4, { 31, 32, 33, 1 }, true, 0, AS_BOTH },
    { 4, 2, 6, 4, { 31, 32, 33, 1 }, false, 0, AS_F32 },
    { 3, 3, 32, 2, { 65, 24 }, true, 0, AS_F32 },
    { 6, 1, 18, 2, { 40, 7 }, false, 0, AS_F32 },
    { 2, 1, 128, 3, { 50, 16, 96 }, true, 0, AS_F32 },
    { 4, 1, 64, 1, { 100 }, false, 0, AS_F32 },
    { 1, 1, 160, 2, { 20, 32 }, true, 0, AS_BOTH },
    { 2, 1, 8, 1, { 301 }, true, 0, AS_F32 },
    { 1, 1, 64, 2, { 258, 1 }, true, 0, AS_F32 },
    { 2, 1, 72, 2, { 40, 131 }, true, 0, AS_BOTH },
    { 2, 1, 130, 2, { 40, 33 }, false, 0, AS_BOTH },
    { 4, 2, 16, 4, { 15, 16, 17, 1 }, true, 0, AS_BF16 },
    { 4, 2, 16, 3, { 3, 0, 45 }, false, 1300, AS_BF16 },
    { 2, 1, 32, 2, { 64, 33 }, false, 0, AS_BF16 },
    { 3, 1, 32, 2, { 140, 7 }, true, 800, AS_BF16 },
    { 2, 1, 64, 3, { 1, 67, 128 }, true, 0, AS_BF16 },
    { 2, 1, 64, 2, { 130, 30 }, true, 0, AS_BF16 },
    { 2, 1, 64, 2, { 131, 20 }, false, 700, AS_BF16 },
    { 2, 1, 96, 2, { 5, 67 }, true, 0, AS_BF16 },
    { 2, 1, 96, 2, { 33, 131 }, true, 600, AS_BF16 },
    { 2, 1, 128, 2, { 65, 2 }, false, 0, AS_BF16 },
    { 2, 1, 128, 2, { 20, 131 }, true, 500, AS_BF16 },
    { 12, 12, 16, 4, { 12, 16, 0, 5 }, true, 0, AS_BF16 },
    { 12, 6, 64, 4, { 16, 1, 7, 12 }, false, 0, AS_BF16 },
    { 8, 8, 32, 3, { 5, 16, 11 }, false, 0, AS_BF16 },
    { 8, 8, 32, 3, { 20, 31, 9 }, true, 0, AS_BF16 },
    { 12, 12, 16, 2, { 17, 30 }, true, 0, AS_BF16 },
    { 6, 6, 64, 2, { 18, 25 }, true, 0, AS_BF16 },
    { 4, 4, 64, 3, { 40, 64, 17 }, true, 0, AS_BF16 },
    { 4, 4, 96, 3, { 9, 0, 16 }, true, 0, AS_BF16 },
    { 4, 4, 128, 3, { 12, 30, 3 }, true, 0, AS_BF16 },
    { 2, 1, 96, 1, { 33 }, false, 0, AS_BF16 },
    { 2, 1, 128, 1, { 64 }, false, 0, AS_BF16 },
    { 6, 6, 16, 2, { 70, 66 }, true, 0, AS_BF16 },
    { 2, 1, 32, 1, { 129 }, false, 0, AS_BF16 },
};
enum {
    ATTENTION_CASES = sizeof(attention_cases) / sizeof(attention_cases[0]),
    FIRST_LONG = 9,
    FIRST_BF16 = 13,
    FIRST_TEAMS = 24,
};

static inline int64_t attention_case_longest(const attention_case *c)
{
    int64_t longest = c->claim;

    for (int64_t b = 0; b < c->B; b++) {
        longest = c->length[b] > longest ? c->length[b] : longest;
    }
    return longest;
}
