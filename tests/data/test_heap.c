/* test_heap.c - whatever goes in, and in between, comes out in order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "core/fault.h"
#include "core/rng.h"
#include "data/heap.h"

static bool before(csp_heap_item a, csp_heap_item b)
{
    return a.first != b.first ? a.first < b.first : a.second < b.second;
}

/* Few different keys, so that ties are frequent; every fourth call takes one out. */
static void items_come_out_in_order(void **state)
{
    const csp_rng rng = { 3, CSP_DRAW_TEST, 0, 0 };
    csp_heap heap = { 0 };
    int64_t in = 0, out = 0;
    bool seen[1000] = { false };

    (void)state;
    for (uint64_t i = 0; i < 1000; i++) {
        const csp_heap_item item = { csp_rng_below(rng, 2 * i, 12),
                                     csp_rng_below(rng, 2 * i + 1, 5) - (i % 7 == 0), (int32_t)i };

        assert_int_equal(csp_heap_push(&heap, "test", item), CSP_OK);
        in++;
        if (i % 4 == 3) {
            const csp_heap_item top = csp_heap_pop(&heap);

            assert_false(seen[top.value]);
            seen[top.value] = true;
            out++;
            for (int64_t j = 0; j < heap.count; j++) {
                assert_false(before(heap.items[j], top));
            }
        }
    }
    for (csp_heap_item last = { 0, 0, 0 }; heap.count > 0; out++) {
        const csp_heap_item top = csp_heap_pop(&heap);

        assert_false(before(top, last) || seen[top.value]);
        seen[top.value] = true;
        last = top;
    }
    assert_int_equal(in, out);
    csp_heap_clear(&heap);
    assert_null(heap.items);
}

static void a_push_without_memory_leaves_the_heap_as_it_is(void **state)
{
    csp_heap heap = { 0 };

    (void)state;
    csp_fault_arm(1);
    assert_int_equal(csp_heap_push(&heap, "test", (csp_heap_item) { 1, 1, 1 }), CSP_ERR_MEMORY);
    csp_fault_arm(0);
    assert_int_equal(heap.count, 0);
    assert_int_equal(csp_heap_push(&heap, "test", (csp_heap_item) { 1, 2, 3 }), CSP_OK);
    assert_int_equal(csp_heap_pop(&heap).value, 3);
    csp_heap_clear(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_out_in_order),
        cmocka_unit_test(a_push_without_memory_leaves_the_heap_as_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
