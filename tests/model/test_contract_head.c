/* test_contract_head.c - the head obeys the contract: excluded ids as flags, scale, pooling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/fault.h"
#include "cpu/backend.h"
#include "cpu/cpu.h"
#include "model/contract_head.h"

enum { V = 9 };

typedef struct world {
    csp_backend *be;
    csp_model *model;
    csp_contract contract;
} world;

static void make(world *w)
{
    csp_model_config config = csp_model_config_standard(CSP_FAMILY_LLAMA);
    const csp_model_options options = { .config = &config, .seed = 3, .max_len = 4 };

    csp_backend_register("cpu", csp_cpu_open);
    assert_int_equal(csp_backend_create("cpu", 1, &w->be), CSP_OK);
    config.D = 8;
    config.F = 8;
    config.L = 1;
    config.H = config.G = 2;
    config.E = 4;
    config.V = V;
    config.max_position = 8;
    config.tied = true;
    config.bos_id = config.pad_id = -1;
    config.eos_count = 0;
    assert_int_equal(csp_model_create(w->be, &options, &w->model), CSP_OK);
    assert_int_equal(csp_contract_init(&w->contract), CSP_OK);
}

static void clear(world *w)
{
    csp_contract_clear(&w->contract);
    csp_model_destroy(w->model);
    csp_backend_destroy(w->be);
}

static void a_contract_without_exclusions_needs_no_memory(void **state)
{
    csp_contract_head head = { .be = NULL };
    world w;

    (void)state;
    make(&w);
    assert_int_equal(csp_contract_head_open(w.be, w.model, &w.contract, &head), CSP_OK);
    assert_int_equal(head.head.exclude.ndim, 0);
    assert_null(head.memory.base);
    assert_int_equal(head.head.pooling, CSP_POOL_MAX);
    assert_true(head.head.scale == 1.0f);
    assert_ptr_equal(head.head.e.data, w.model->params->embed->value.data);
    csp_contract_head_close(&head);
    csp_contract_head_close(&head);
    clear(&w);
}

static void excluded_ids_become_flags(void **state)
{
    static const int32_t ids[] = { 7, 0, 7, V }; /* V is no term of this model */
    static const uint8_t want[V] = { 1, 0, 0, 0, 0, 0, 0, 1, 0 };
    csp_contract_head head = { .be = NULL };
    uint8_t got[V];
    world w;
    long n = 0;
    csp_status status;

    (void)state;
    make(&w);
    w.contract.logit_scale = 0.5;
    w.contract.pooling = CSP_POOLING_SUM;
    assert_int_equal(csp_contract_set_exclude_ids(&w.contract, ids, 4), CSP_OK);
    assert_int_equal(csp_contract_head_open(w.be, w.model, &w.contract, &head), CSP_ERR_DATA);
    assert_non_null(strstr(csp_error_text(), "exclude_ids holds 9, not below vocab_size 9"));
    assert_int_equal(csp_contract_set_exclude_ids(&w.contract, ids, 3), CSP_OK);
    do {
        csp_contract_head_close(&head);
        csp_fault_arm(++n);
        status = csp_contract_head_open(w.be, w.model, &w.contract, &head);
        csp_fault_arm(0);
        assert_true(status == CSP_OK || status == CSP_ERR_MEMORY);
    } while (status != CSP_OK && n < 20);
    assert_int_equal(status, CSP_OK);
    assert_true(n > 2);
    assert_int_equal(csp_tensor_count(&head.head.exclude), V);
    assert_int_equal(csp_backend_download(w.be, &head.head.exclude, got), CSP_OK);
    assert_memory_equal(got, want, V);
    assert_true(head.head.scale == 0.5f);
    assert_int_equal(head.head.pooling, CSP_POOL_SUM);
    csp_contract_head_close(&head);
    clear(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_contract_without_exclusions_needs_no_memory),
        cmocka_unit_test(excluded_ids_become_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
