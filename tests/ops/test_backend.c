/* test_backend.c - the registry, the table, memory, and that a step allocates nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "ops/attention.h"
#include "ops/check.h"
#include "ops/embed.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/optim.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "ops/table.h"
#include "support/rig.h"

static void no_entry_of_the_table_is_null(void **state)
{
    rig *r = *state;
    void (*entry)(void);
    const char *at = (const char *)r->be->ops;

    assert_int_equal(sizeof(csp_ops) % sizeof(entry), 0);
    for (size_t i = 0; i < sizeof(csp_ops) / sizeof(entry); i++) {
        memcpy(&entry, at + i * sizeof(entry), sizeof(entry));
        if (entry == NULL) {
            fail_msg("entry %zu of csp_ops is NULL", i);
        }
    }
}

static void names_choose_a_backend_or_are_refused(void **state)
{
    csp_backend *be = NULL;

    (void)state;
    assert_int_equal(csp_backend_create("gpu", 1, &be), CSP_ERR_ARGUMENT);
    assert_non_null(strstr(csp_error_text(), "device gpu: no such device"));
    assert_int_equal(csp_backend_create("cpu:1", 1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cpux", 1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cpu", -1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cpu", 100000, &be), CSP_ERR_ARGUMENT);
    assert_null(be);
    assert_int_equal(csp_backend_create("auto", 3, &be), CSP_OK);
    assert_int_equal(be->threads, 3);
    csp_backend_destroy(be);
    assert_int_equal(csp_backend_create("cpu", 0, &be), CSP_OK);
    assert_true(be->threads >= 1);
    csp_backend_destroy(be);
    csp_backend_destroy(NULL);
}

static void devices_are_numbered_from_0(void **state)
{
    rig *r = *state;
    csp_backend *be = NULL;

    if (strcmp(r->be->name, "cpu") == 0) {
        skip();
    }
    assert_string_equal(r->be->name, "cuda:0");
    assert_int_equal(csp_backend_create("cuda:", 1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cuda:0x", 1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cuda:-1", 1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cuda:99999", 1, &be), CSP_ERR_ARGUMENT);
    assert_int_equal(csp_backend_create("cuda:9999", 1, &be), CSP_ERR_DEVICE);
    assert_non_null(strstr(csp_error_text(), "cuda:9999: no such device"));
    assert_null(be);
}

/* What a backend says of its choices it takes up again, and no other text. */
static void choices_are_taken_from_their_own_kind_of_backend_only(void **state)
{
    rig *r = *state;
    char *text, *again;

    assert_int_equal(csp_backend_tuning_get(r->be, &text), CSP_OK);
    assert_int_equal(text[0] == '\0', strcmp(r->be->name, "cpu") == 0);
    assert_int_equal(csp_backend_tuning_set(r->be, text), CSP_OK);
    assert_int_equal(csp_backend_tuning_set(r->be, "slide rule 7\n"), CSP_ERR_UNSUPPORTED);
    assert_non_null(strstr(csp_error_text(), "were chosen by \"slide rule 7\", and this is "));
    assert_int_equal(csp_backend_tuning_get(r->be, &again), CSP_OK);
    assert_string_equal(again, text);
    free(text);
    free(again);
}

/* A key and a value in each line. */
static void versions_are_said_in_lines(void **state)
{
    rig *r = *state;
    char text[CSP_VERSIONS_BYTES];

    assert_int_equal(csp_backend_versions(r->be, text), CSP_OK);
    assert_int_equal(strncmp(text, "blas OpenBLAS ", 14) == 0, strcmp(r->be->name, "cpu") == 0);
    assert_int_equal(strncmp(text, "driver CUDA ", 12) == 0, strcmp(r->be->name, "cpu") != 0);
    for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1) {
        assert_non_null(strchr(line, '\n'));
        assert_true(strcspn(line, " ") > 0 && strcspn(line, " ") + 1 < strcspn(line, "\n"));
    }
}

static int waits;

static csp_status count_wait(csp_backend *be)
{
    (void)be;
    waits++;
    return CSP_OK;
}

static void every_op_waits_where_that_is_asked_for(void **state)
{
    rig *r = *state;
    csp_ops ops = *r->be->ops;
    csp_backend be = *r->be;

    rig_begin(r, 3);
    csp_tensor table = rig_normal(r, CSP_F32, 2, (int64_t[]) { 3, 4 });
    csp_tensor token = rig_indices(r, 3, 5), x = rig_output(r, CSP_F32, 2, (int64_t[]) { 5, 4 });

    ops.sync = count_wait;
    be.ops = &ops;
    waits = 0;
    assert_int_equal(csp_embed_fwd(&be, &table, &token, &x), CSP_OK);
    assert_int_equal(waits, 0);
    be.sync_every_op = true;
    assert_int_equal(csp_embed_fwd(&be, &table, &token, &x), CSP_OK);
    assert_int_equal(waits, 1);
    rig_check_guards(r);
}

static void bf16_is_taken_by_backends_that_have_it(void **state)
{
    rig *r = *state;
    csp_backend plain = *r->be;
    csp_dtype S = CSP_U8;

    rig_begin(r, 4);
    const csp_tensor half = rig_normal(r, CSP_BF16, 2, (int64_t[]) { 3, 4 });
    const csp_tensor whole = rig_normal(r, CSP_F32, 2, (int64_t[]) { 3, 4 });
    const csp_tensor ints = rig_indices(r, 3, 5), none = csp_tensor_none();

    plain.bf16 = false;
    plain.name = "plain";
    assert_int_equal(csp_check_storage(&plain, "op", "x", &half, 2, &S), CSP_ERR_UNSUPPORTED);
    assert_string_equal(csp_error_text(), "op: x is bf16, with which plain does not compute: bf16 "
                                          "needs a CUDA device");
    assert_int_equal(csp_check_storage(&plain, "op", "x", &ints, 1, &S), CSP_ERR_SHAPE);
    assert_int_equal(csp_check_storage(&plain, "op", "x", &half, 1, &S), CSP_ERR_SHAPE);
    assert_int_equal(csp_check_storage(&plain, "op", "x", &none, 2, &S), CSP_ERR_SHAPE);
    assert_int_equal(S, CSP_U8);
    assert_int_equal(csp_check_storage(&plain, "op", "x", &whole, 2, &S), CSP_OK);
    assert_int_equal(S, CSP_F32);
    plain.bf16 = true;
    assert_int_equal(csp_check_storage(&plain, "op", "x", &half, 2, &S), CSP_OK);
    assert_int_equal(S, CSP_BF16);
    assert_int_equal(r->be->bf16, strcmp(r->be->name, "cpu") != 0);
    rig_check_guards(r);
}

static void opening_fails_cleanly_without_memory(void **state)
{
    rig *r = *state;
    csp_backend *be = NULL;
    csp_status status = CSP_ERR_MEMORY;
    long n;

    for (n = 1; status != CSP_OK; n++) {
        csp_fault_arm(n);
        status = csp_backend_create(r->be->name, 2, &be);
        csp_fault_arm(0);
        assert_true(status == CSP_OK || (status == CSP_ERR_MEMORY && be == NULL));
        assert_true(n < 10);
    }
    assert_true(n > 2);
    csp_backend_destroy(be);
}

static void memory_is_lent_copied_and_cleared(void **state)
{
    rig *r = *state;
    const int64_t n = 1000;
    csp_arena arena = { 0 };
    csp_tensor a, b, none = csp_tensor_none(), half;
    float host[1000], back[1000];

    for (int i = 0; i < 1000; i++) {
        host[i] = (float)i;
    }
    csp_fault_arm(1);
    assert_int_equal(csp_backend_reserve(r->be, 1 << 20, &arena), CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_null(arena.base);
    assert_int_equal(csp_backend_reserve(r->be, (size_t)1 << 62, &arena), CSP_ERR_MEMORY);
    assert_int_equal(csp_backend_reserve(r->be, 1 << 20, &arena), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 1, &n, &a), CSP_OK);
    assert_int_equal(csp_arena_tensor(&arena, CSP_F32, 1, &n, &b), CSP_OK);
    assert_int_equal(csp_backend_upload(r->be, host, &a), CSP_OK);
    assert_int_equal(csp_backend_copy(r->be, &a, &b), CSP_OK);
    assert_int_equal(csp_backend_zero(r->be, &a), CSP_OK);
    assert_int_equal(csp_backend_download(r->be, &b, back), CSP_OK);
    assert_memory_equal(host, back, sizeof(host));
    assert_int_equal(csp_backend_download(r->be, &a, back), CSP_OK);
    assert_true(back[0] == 0.0f && back[999] == 0.0f);
    half = csp_tensor_rows(&a, 0, 500);
    assert_int_equal(csp_backend_copy(r->be, &half, &b), CSP_ERR_SHAPE);
    assert_int_equal(csp_backend_upload(r->be, NULL, &none), CSP_OK);
    csp_backend_release(r->be, &arena);
    assert_null(arena.base);
    csp_backend_release(r->be, &arena);
}

/*
 * What is copied is what was there at the mark, whatever is enqueued behind it; and beside it other
 * memory is written. Parts of one byte, of none, and of more than the first time.
 */
static void a_download_runs_beside_later_work(void **state)
{
    rig *r = *state;
    const int64_t n = 5000, one = 1, zero = 0;
    csp_download d = { 0 };
    void *at[3];

    rig_begin(r, 5);
    csp_tensor a = rig_normal(r, CSP_F32, 1, &n), b = rig_output(r, CSP_F32, 1, &n);
    csp_tensor byte = rig_mask(r, one), other = rig_output(r, CSP_F32, 1, &n);
    csp_tensor none = csp_tensor_view(NULL, CSP_F32, 1, &zero);

    for (int64_t part = 40; part <= n; part *= 5) {
        const csp_tensor parts[] = { csp_tensor_rows(&b, n - part, part), none, byte };

        assert_int_equal(csp_backend_zero(r->be, &b), CSP_OK);
        assert_int_equal(csp_backend_copy(r->be, &a, &b), CSP_OK);
        assert_int_equal(csp_download_mark(r->be, &d), CSP_OK);
        assert_int_equal(csp_backend_copy(r->be, &b, &other), CSP_OK);
        for (int again = 0; again < 2; again++) {
            assert_int_equal(csp_download_start(r->be, &d, parts, 3, at), CSP_OK);
            assert_int_equal(csp_backend_zero(r->be, &other), CSP_OK);
            assert_int_equal(csp_download_wait(r->be, &d), CSP_OK);
            assert_memory_equal(at[0], (float *)rig_host(r, &a) + n - part,
                                (size_t)part * sizeof(float));
            assert_memory_equal(at[2], rig_host(r, &byte), 1);
            assert_true((uintptr_t)at[0] % 16 == 0);
            assert_true((char *)at[2] >= (char *)at[0] + part * (int64_t)sizeof(float));
        }
    }
    csp_download_clear(r->be, &d);
    assert_null(d.host.base);
    csp_download_clear(r->be, &d);
    rig_check_guards(r);
}

static void a_download_without_memory_fails_with_words(void **state)
{
    rig *r = *state;
    const int64_t n = 100;
    csp_status status = CSP_ERR_MEMORY;
    csp_download d = { 0 };
    void *at;

    rig_begin(r, 6);
    const csp_tensor a = rig_normal(r, CSP_F32, 1, &n);
    for (long call = 1; status != CSP_OK; call++) {
        csp_fault_arm(call);
        status = csp_download_mark(r->be, &d);
        if (status == CSP_OK) {
            status = csp_download_start(r->be, &d, &a, 1, &at);
        }
        csp_fault_arm(0);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
        assert_true(call < 10);
        csp_download_clear(r->be, &d);
    }
}

static void fetched_numbers_are_there_after_a_wait(void **state)
{
    rig *r = *state;
    const int64_t n = 1000;
    csp_arena device = { 0 }, host = { 0 };
    csp_tensor a, none = csp_tensor_none();
    double values[1000], *got;

    for (int i = 0; i < 1000; i++) {
        values[i] = (double)i;
    }
    csp_fault_arm(1);
    assert_int_equal(csp_backend_host_reserve(r->be, 8000, &host), CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_null(host.base);
    assert_int_equal(csp_backend_reserve(r->be, 8000, &device), CSP_OK);
    assert_int_equal(csp_backend_host_reserve(r->be, 8000, &host), CSP_OK);
    assert_int_equal(csp_arena_tensor(&device, CSP_F64, 1, &n, &a), CSP_OK);
    got = (double *)(void *)host.base;
    for (int round = 0; round < 2; round++) {
        values[7] = 3.0 + round;
        assert_int_equal(csp_backend_upload(r->be, values, &a), CSP_OK);
        assert_int_equal(csp_backend_fetch(r->be, &a, got), CSP_OK);
        assert_int_equal(csp_backend_fetch(r->be, &none, NULL), CSP_OK);
        assert_int_equal(csp_backend_sync(r->be), CSP_OK);
        assert_memory_equal(got, values, sizeof(values));
    }
    assert_int_equal(csp_backend_fetch(r->be, &a, got), CSP_OK);
    csp_backend_host_release(r->be, &host);
    assert_null(host.base);
    csp_backend_host_release(r->be, &host);
    csp_backend_release(r->be, &device);
}

/* Columns of a wider matrix go up, come back and are cleared, and what is beside them stays. */
static void rows_apart_are_moved_alone(void **state)
{
    rig *r = *state;
    enum { ROWS = 7, COLUMNS = 5, FIRST = 2, WIDTH = 11 };
    float host[ROWS * COLUMNS], back[ROWS * COLUMNS], all[ROWS * WIDTH];
    const csp_status status = r->be->apart ? CSP_OK : CSP_ERR_UNSUPPORTED;
    csp_tensor part;

    rig_begin(r, 8);
    csp_tensor whole = rig_accumulated(r, 2, (int64_t[]) { ROWS, WIDTH });
    part = csp_tensor_columns(&whole, FIRST, COLUMNS);
    for (int i = 0; i < ROWS * COLUMNS; i++) {
        host[i] = (float)i;
    }
    assert_int_equal(csp_backend_download(r->be, &whole, all), CSP_OK);
    assert_int_equal(csp_backend_copy(r->be, &part, &part), CSP_ERR_UNSUPPORTED);
    assert_int_equal(csp_backend_upload(r->be, host, &part), status);
    assert_int_equal(csp_backend_download(r->be, &part, back), status);
    if (!r->be->apart) {
        assert_int_equal(csp_backend_zero(r->be, &part), status);
        rig_check_untouched(r, &whole);
        return;
    }
    assert_memory_equal(host, back, sizeof(host));
    part = csp_tensor_rows(&part, 1, 3);
    assert_int_equal(csp_backend_zero(r->be, &part), CSP_OK);
    for (int n = 0; n < ROWS; n++) {
        for (int c = 0; c < COLUMNS; c++) {
            all[n * WIDTH + FIRST + c] = n >= 1 && n < 4 ? 0.0f : host[n * COLUMNS + c];
        }
    }
    assert_memory_equal(all, rig_host(r, &whole), sizeof(all));
    rig_check_guards(r);
}

static void neighbours_and_overlaps_are_told_apart(void **state)
{
    float memory[60];
    const csp_tensor m = csp_tensor_view(memory, CSP_F32, 2, (int64_t[]) { 6, 10 });
    const csp_tensor left = csp_tensor_columns(&m, 0, 4), right = csp_tensor_columns(&m, 4, 6);
    const csp_tensor both = csp_tensor_columns(&m, 3, 2), none = csp_tensor_none();
    const csp_tensor top = csp_tensor_rows(&left, 0, 2), rest = csp_tensor_rows(&left, 2, 4);
    const csp_tensor dense_top = csp_tensor_rows(&m, 0, 2), dense = csp_tensor_rows(&m, 2, 4);

    (void)state;
    assert_true(csp_tensor_is_beside(&left, &right));
    assert_false(csp_tensor_is_beside(&right, &left));
    assert_false(csp_tensor_is_beside(&left, &both));
    assert_false(csp_tensor_is_beside(&none, &left) || csp_tensor_is_below(&none, &none));
    assert_true(csp_tensor_is_below(&top, &rest));
    assert_false(csp_tensor_is_below(&rest, &top));
    assert_true(csp_tensor_is_below(&dense_top, &dense));
    assert_false(csp_tensor_is_beside(&dense_top, &dense));
    assert_true(csp_check_apart(&left, &right));
    assert_true(csp_check_apart(&right, &left));
    assert_true(csp_check_apart(&top, &rest));
    assert_true(csp_check_apart(&rest, &right));
    assert_false(csp_check_apart(&left, &both));
    assert_false(csp_check_apart(&both, &right));
    assert_false(csp_check_apart(&m, &rest));
    assert_int_equal(csp_tensor_bytes(&left), 6 * 4 * 4);
    assert_int_equal(csp_tensor_columns(&m, 0, 10).apart, 0);
}

/* One small decoder block with an adapter under dropout, forward, backward and update. */
enum { N = 700, D = 64, F = 96, R = 4, V = 50 };

typedef struct block {
    csp_linear l;
    csp_attention a;
    csp_attention_grad ag;
    csp_tensor token, table, x, u, y, rstd, gain, gate, m;
    csp_linear_grad lg;
    csp_optim_tensor optim;
    csp_tensor squares;
} block;

static csp_tensor rows(rig *r, int64_t width)
{
    return rig_normal(r, CSP_F32, 2, (int64_t[]) { N, width });
}

static csp_tensor rows_out(rig *r, int64_t width)
{
    return rig_output(r, CSP_F32, 2, (int64_t[]) { N, width });
}

static void make_block(rig *r, block *b)
{
    const int64_t n = N, d = D, length[] = { 300, 0, 400 };
    static int64_t keys[N];
    const csp_rope rope = { .theta = 1e4 };

    memset(b, 0, sizeof(*b));
    b->token = rig_indices(r, V, N);
    b->table = rig_accumulated(r, 2, (int64_t[]) { V, D });
    b->x = rows_out(r, D);
    b->l.w = rig_normal(r, CSP_F32, 2, (int64_t[]) { F, D });
    b->l.lora_a = rig_normal(r, CSP_F32, 2, (int64_t[]) { R, D });
    b->l.lora_b = rig_normal(r, CSP_F32, 2, (int64_t[]) { F, R });
    b->l.lora_scale = 2.0f;
    b->l.dropout = (csp_dropout) { 0.1f, 1, 2, 3, rig_input(r, CSP_I64, 1, &n, keys) };
    b->u = rows_out(r, R);
    b->y = rows_out(r, F);
    b->gate = rows(r, F);
    b->m = rows_out(r, F);
    b->rstd = rig_output(r, CSP_F32, 1, &n);
    b->gain = rig_accumulated(r, 1, &d);
    b->lg.dlora_a = rig_accumulated(r, 2, (int64_t[]) { R, D });
    b->lg.dlora_b = rig_accumulated(r, 2, (int64_t[]) { F, R });
    b->a = (csp_attention) { .H = 4, .G = 2, .E = 16, .longest = 400, .causal = true };
    b->a.seq_start = rig_lengths(r, 3, length);
    b->a.cos = rig_output(r, CSP_F32, 2, (int64_t[]) { 400, 8 });
    b->a.sin = rig_output(r, CSP_F32, 2, (int64_t[]) { 400, 8 });
    assert_int_equal(csp_rope_table(r->be, &rope, &b->a.cos, &b->a.sin), CSP_OK);
    b->ag = (csp_attention_grad) { rows(r, 64),     rows(r, 32),     rows(r, 32),
                                   rows_out(r, 64), rows_out(r, 4),  rows(r, 64),
                                   rows_out(r, 64), rows_out(r, 32), rows_out(r, 32) };
    b->optim = (csp_optim_tensor) { rig_accumulated(r, 2, (int64_t[]) { V, D }),
                                    b->table,
                                    rig_accumulated(r, 2, (int64_t[]) { V, D }),
                                    rig_output(r, CSP_F32, 2, (int64_t[]) { V, D }),
                                    csp_tensor_none(),
                                    0,
                                    true };
    b->squares = rig_output(r, CSP_F64, 1, (int64_t[]) { 1 });
}

static void run_block(rig *r, block *b)
{
    const csp_adamw_args args = {
        .t = 1, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .squares = b->squares
    };
    csp_backend *be = r->be;

    assert_int_equal(csp_embed_fwd(be, &b->table, &b->token, &b->x), CSP_OK);
    assert_int_equal(csp_linear_fwd(be, &b->l, &b->x, &b->u, &b->y), CSP_OK);
    assert_int_equal(csp_swiglu_fwd(be, &b->gate, &b->y, &b->m), CSP_OK);
    assert_int_equal(
        csp_attention_fwd(be, &b->a, &b->ag.q, &b->ag.k, &b->ag.v, &b->ag.o, &b->ag.lse), CSP_OK);
    assert_int_equal(csp_attention_bwd(be, &b->a, &b->ag), CSP_OK);
    assert_int_equal(csp_linear_bwd(be, &b->l, &b->x, &b->u, &b->m, &b->lg, &b->ag.dq), CSP_OK);
    assert_int_equal(csp_norm_fwd(be, &b->x, NULL, &b->gain, 1e-5f, NULL, &b->rstd, &b->ag.dq),
                     CSP_OK);
    assert_int_equal(
        csp_norm_bwd(be, &b->x, &b->gain, &b->rstd, &b->ag.dq, NULL, &b->ag.dq, &b->gain), CSP_OK);
    assert_int_equal(csp_embed_bwd(be, &b->token, &b->x, &b->optim.grad), CSP_OK);
    assert_int_equal(csp_grad_squares(be, &b->optim, 1, &b->squares), CSP_OK);
    assert_int_equal(csp_adamw(be, &b->optim, 1, &args), CSP_OK);
}

static void a_second_step_allocates_nothing(void **state)
{
    rig *r = *state;
    block b;

    rig_begin(r, 1);
    make_block(r, &b);
    run_block(r, &b);
    csp_fault_arm(1000000);
    run_block(r, &b);
    assert_int_equal(csp_fault_asked(), 0);
    csp_fault_arm(0);
}

static void a_step_without_memory_fails_with_words(void **state)
{
    rig *r = *state;
    csp_backend *fresh, *usual = r->be;
    block b;

    rig_begin(r, 2);
    make_block(r, &b);
    assert_int_equal(csp_embed_fwd(usual, &b.table, &b.token, &b.x), CSP_OK);
    assert_int_equal(csp_backend_sync(usual), CSP_OK); /* the other one does not wait for it */
    assert_int_equal(csp_backend_create(usual->name, 2, &fresh), CSP_OK);
    r->be = fresh; /* its scratch is still empty */
    csp_fault_arm(1);
    assert_int_equal(csp_linear_fwd(fresh, &b.l, &b.x, &b.u, &b.y), CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_non_null(strstr(csp_error_text(), "no memory"));
    rig_check_untouched(r, &b.u);
    csp_backend_destroy(fresh);
    r->be = usual;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_entry_of_the_table_is_null),
        cmocka_unit_test(names_choose_a_backend_or_are_refused),
        cmocka_unit_test(devices_are_numbered_from_0),
        cmocka_unit_test(choices_are_taken_from_their_own_kind_of_backend_only),
        cmocka_unit_test(versions_are_said_in_lines),
        cmocka_unit_test(bf16_is_taken_by_backends_that_have_it),
        cmocka_unit_test(opening_fails_cleanly_without_memory),
        cmocka_unit_test(every_op_waits_where_that_is_asked_for),
        cmocka_unit_test(memory_is_lent_copied_and_cleared),
        cmocka_unit_test(a_download_runs_beside_later_work),
        cmocka_unit_test(a_download_without_memory_fails_with_words),
        cmocka_unit_test(fetched_numbers_are_there_after_a_wait),
        cmocka_unit_test(rows_apart_are_moved_alone),
        cmocka_unit_test(neighbours_and_overlaps_are_told_apart),
        cmocka_unit_test(a_second_step_allocates_nothing),
        cmocka_unit_test(a_step_without_memory_fails_with_words),
    };

    return rig_main(argc, argv, tests, sizeof(tests) / sizeof(tests[0]));
}
