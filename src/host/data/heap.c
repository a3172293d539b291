/* heap.c - a binary heap: the children of item i are items 2i + 1 and 2i + 2. */
#include "data/heap.h"

#include <stdlib.h>

#include "data/tokenizer_internal.h"

static bool comes_first(const csp_heap_item *a, const csp_heap_item *b)
{
    return a->first != b->first ? a->first < b->first : a->second < b->second;
}

csp_status csp_heap_push(csp_heap *heap, const char *what, csp_heap_item item)
{
    int64_t i = heap->count;

    if (i == heap->room) {
        CSP_TRY(csp_grow(what, i + 1, sizeof(*heap->items), &heap->items, &heap->room));
    }
    while (i > 0 && comes_first(&item, &heap->items[(i - 1) / 2])) {
        heap->items[i] = heap->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->items[i] = item;
    heap->count++;
    return CSP_OK;
}

csp_heap_item csp_heap_pop(csp_heap *heap)
{
    csp_heap_item *items = heap->items;
    csp_heap_item top, last;
    int64_t count, i = 0;

    CSP_ASSERT(heap->count > 0);
    count = --heap->count;
    top = items[0];
    last = items[count];
    for (int64_t child = 1; child < count; child = 2 * i + 1) {
        if (child + 1 < count && comes_first(&items[child + 1], &items[child])) {
            child++;
        }
        if (!comes_first(&items[child], &last)) {
            break;
        }
        items[i] = items[child];
        i = child;
    }
    items[i] = last;
    return top;
}

void csp_heap_clear(csp_heap *heap)
{
    free(heap->items);
    *heap = (csp_heap) { 0 };
}
