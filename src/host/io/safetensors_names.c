/* safetensors_names.c - entries by name: a sorted list of their numbers and a binary search. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "io/safetensors_header.h"

static int compare_names(const void *a, const void *b, void *entries)
{
    const csp_safetensors_entry *all = entries;

    return strcmp(all[*(const int64_t *)a].name, all[*(const int64_t *)b].name);
}

csp_status csp_safetensors_sort_names(const char *what, const csp_safetensors_entry *entries,
                                      int64_t count, int64_t **out)
{
    int64_t *numbers;

    CSP_TRY(csp_alloc(what, count, sizeof(*numbers), &numbers));
    for (int64_t i = 0; i < count; i++) {
        numbers[i] = i;
    }
    qsort_r(numbers, (size_t)count, sizeof(*numbers), compare_names, (void *)entries);
    *out = numbers;
    return CSP_OK;
}

const csp_safetensors_entry *csp_safetensors_search(const csp_safetensors_entry *entries,
                                                    const int64_t *by_name, int64_t count,
                                                    const char *name)
{
    int64_t low = 0, high = count;

    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        const csp_safetensors_entry *entry = &entries[by_name[middle]];
        const int order = strcmp(entry->name, name);

        if (order == 0) {
            return entry;
        }
        if (order < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}
