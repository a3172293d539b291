/*
 * heap.h - a priority queue: the item with the smallest (first, second) is always on top.
 */
#pragma once

#include "core/status.h"

/* Items of the same (first, second) come in no particular order. */
typedef struct csp_heap_item {
    uint64_t first, second;
    int32_t value;
} csp_heap_item;

/* Start from { 0 }; count may be set to 0 to forget all items and keep their memory. */
typedef struct csp_heap {
    csp_heap_item *items;
    int64_t count, room;
} csp_heap;

/* what is for the text of CSP_ERR_MEMORY; the heap is as before then. */
CSP_CHECKED csp_status csp_heap_push(csp_heap *heap, const char *what, csp_heap_item item);

/* Takes the top item; count must be above 0. */
csp_heap_item csp_heap_pop(csp_heap *heap);

void csp_heap_clear(csp_heap *heap);
