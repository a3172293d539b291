/*
 * chunked.h - the texts of one optimizer step as micro-batches, so that the batch may be larger
 * than memory: activations of the first ones are kept while they fit, the others are computed
 * again.
 *
 * Representation gradients are cached between the passes (GradCache, arXiv 2101.06983): forward
 * over all micro-batches, the loss on the whole batch, backward over all micro-batches. Which are
 * kept changes no bit of the result, because a recomputed forward pass repeats the same operations
 * (dropout is counter-based); how texts are cut into micro-batches changes the order of additions.
 */
#pragma once

#include "eval/packed.h"

typedef struct csp_chunk {
    csp_batch batch; /* on the host                                              */
    csp_side side;
    int64_t first;     /* row of its first text among the texts of its side        */
    int64_t text_base; /* in row_key, of the texts of its side                 */
    size_t bytes;      /* of the step arena, in its form                           */
    csp_keep form;     /* what of its activations is in memory                     */
    bool kept;
    size_t mark;       /* arena position before it was placed                      */
    csp_packed packed; /* on the device from csp_chunked_fwd on, while in memory   */
    csp_run *run;
} csp_chunk;

typedef struct csp_chunked {
    csp_backend *be;
    const csp_model *model;
    const csp_contract *contract;
    csp_keep keep;    /* of a micro-batch alone in memory                      */
    int64_t max_rows; /* of a micro-batch; recorded in checkpoints             */
    csp_arena step;
    csp_chunk *chunks;
    int64_t count; /* of this step                                          */
    int64_t room;
    int64_t kept;    /* chunks 0 .. kept-1 stay in memory between the passes  */
    int64_t whole;   /* chunks 0 .. whole-1 of them with all activations      */
    int64_t said[3]; /* kept, whole and count of the plan last logged       */
    int64_t *edges;
    int64_t edge_room;
} csp_chunked;

/*
 *   max_rows  in   rows of a micro-batch; a longer text has one to itself
 *   longest   in   rows of the longest text there can be
 *   texts     in   texts of one side of a step, at most
 *   budget    in   bytes for activations; at least one micro-batch is reserved whatever it says
 *   keep      in   of a micro-batch alone in memory: CSP_KEEP_ALL, or where that does not fit MOST
 *                  or INPUTS; 0 is CSP_KEEP_ALL
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_chunked_create(csp_backend *be, const csp_model *model,
                                          const csp_contract *contract, int64_t max_rows,
                                          int64_t longest, int64_t texts, size_t budget,
                                          csp_keep keep, csp_chunked **out);
void csp_chunked_destroy(csp_chunked *c);

/* Forgets the last step's texts. */
void csp_chunked_begin(csp_chunked *c);

/*
 * Cuts, packs and appends the texts of one side; text and text_base as in csp_batch_pack. Where be
 * replays passes small micro-batches are padded (csp_batch_pad).
 */
CSP_CHECKED csp_status csp_chunked_add(csp_chunked *c, csp_side side, const csp_token_lists *lists,
                                       const int64_t *text, int64_t text_base);

/* The same for adaptation: targets, causal, one copy. */
CSP_CHECKED csp_status csp_chunked_add_adapt(csp_chunked *c, const csp_token_lists *lists,
                                             const int64_t *text);

/*
 * Decides what is kept, after the last add, and logs it where it is not what was logged last. As
 * many micro-batches as fit stay in memory, without gate and up where that lets more of them stay:
 * computing those two again costs about half a forward pass and saves two thirds of the memory.
 *
 * Errors: CSP_ERR_MEMORY: a micro-batch does not fit.
 */
CSP_CHECKED csp_status csp_chunked_plan(csp_chunked *c);

/*
 * Puts chunk i into memory and runs it forward: chunk->run->h is there. Chunks in any order, but
 * csp_chunked_leave of one comes before the next. A chunk of empty texts alone has no rows and is
 * not run.
 */
CSP_CHECKED csp_status csp_chunked_fwd(csp_chunked *c, int64_t i, const csp_pass *pass);

/* Room for csp_chunked_say_row. */
enum { CSP_CHUNKED_WORDS = 96 };

/* "token 3 of query 7 of the batch": where row of chunk i is, until the next csp_chunked_begin. */
void csp_chunked_say_row(const csp_chunked *c, int64_t i, int64_t row, char *out, size_t bytes);

/*
 * Says that the hidden states of chunk i were not finite.
 *
 *   bad_row       in   what csp_run_note_bad_row noted of the chunk; -1: they were
 *   phase, step   in   for the message
 *
 * Errors: CSP_ERR_NUMERIC naming phase, step, the first text that is not, and the first parameter.
 */
CSP_CHECKED csp_status csp_chunked_check(const csp_chunked *c, int64_t i, int64_t bad_row,
                                         const char *phase, int64_t step);

/*
 * The gradients of everything below the head from chunk->run->dh; nothing for a chunk without rows.
 *
 *   watch   in   is told of the last chunk, after which gradients are complete; NULL: nobody
 */
CSP_CHECKED csp_status csp_chunked_bwd(csp_chunked *c, int64_t i, const csp_pass *pass,
                                       const csp_gradient_watch *watch);

/* After chunk i was used, forward or backward: gives its memory back unless it is kept. */
void csp_chunked_leave(csp_chunked *c, int64_t i);

/* Before the backward pass: runs chunk i forward again if it was not kept. */
CSP_CHECKED csp_status csp_chunked_again(csp_chunked *c, int64_t i, const csp_pass *pass);

/* Token rows of all chunks. */
int64_t csp_chunked_rows(const csp_chunked *c);
