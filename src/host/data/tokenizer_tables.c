/* tokenizer_tables.c - growable text and lists, and the two hash tables of a tokenizer. */
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "data/tokenizer_internal.h"

csp_status csp_grow(const char *what, int64_t needed, size_t size, void *block, int64_t *room)
{
    int64_t next = *room > 0 ? *room : 16;

    if (needed <= *room) {
        return CSP_OK;
    }
    while (next < needed) {
        next = next > INT64_MAX / 2 ? needed : next * 2;
    }
    CSP_TRY(csp_realloc(what, next, size, block));
    *room = next;
    return CSP_OK;
}

csp_status csp_text_buffer_reserve(csp_text_buffer *buffer, int64_t more)
{
    return csp_grow("tokenizer text", buffer->count + more, 1, &buffer->bytes, &buffer->room);
}

csp_status csp_text_buffer_add(csp_text_buffer *buffer, const char *bytes, int64_t count)
{
    CSP_TRY(csp_text_buffer_reserve(buffer, count));
    if (count > 0) {
        memcpy(buffer->bytes + buffer->count, bytes, (size_t)count);
        buffer->count += count;
    }
    return CSP_OK;
}

csp_status csp_check_growth(int64_t made, int64_t from)
{
    enum { TIMES = 64, FREE_BYTES = 1 << 16 };

    if (made > CSP_TEXT_LIMIT || made > TIMES * from + FREE_BYTES) {
        return CSP_FAIL(CSP_ERR_DATA,
                        "tokenizer: its normalizers or decoders make more than %lld bytes of a "
                        "text of %lld",
                        (long long)made - 1, (long long)from);
    }
    return CSP_OK;
}

csp_status csp_text_buffer_add_char(csp_text_buffer *buffer, int32_t c)
{
    CSP_TRY(csp_text_buffer_reserve(buffer, 4));
    buffer->count += csp_utf8_write(c, buffer->bytes + buffer->count);
    return CSP_OK;
}

void csp_text_buffer_clear(csp_text_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (csp_text_buffer) { 0 };
}

csp_status csp_token_list_add(csp_token_list *list, int32_t id)
{
    if (list->count == list->room) {
        CSP_TRY(
            csp_grow("token ids", list->count + 1, sizeof(*list->ids), &list->ids, &list->room));
    }
    list->ids[list->count++] = id;
    return CSP_OK;
}

void csp_token_list_clear(csp_token_list *list)
{
    free(list->ids);
    *list = (csp_token_list) { 0 };
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    const uint64_t x = (a ^ 0x9E3779B97F4A7C15u) * ((b ^ 0xD6E8FEB86659FD93u) | 1u);

    return x ^ (x >> 29);
}

uint64_t csp_string_hash(const char *bytes, int64_t count)
{
    uint64_t hash = (uint64_t)count * 0x9E3779B97F4A7C15u;
    uint64_t word;

    while (count >= 8) {
        memcpy(&word, bytes, 8);
        hash = mix(hash ^ word, hash + 0x632BE59BD9B4E019u);
        bytes += 8;
        count -= 8;
    }
    word = 0;
    memcpy(&word, bytes, (size_t)count);
    hash = mix(hash ^ word, hash + 0x632BE59BD9B4E019u);
    return hash ^ (hash >> 32);
}

static void put_slot(csp_string_table *table, int64_t entry)
{
    const int64_t mask = table->slot_count - 1;
    int64_t slot = (int64_t)table->entries[entry].hash & mask;

    while (table->slots[slot] != 0) {
        slot = (slot + 1) & mask;
    }
    table->slots[slot] = (int32_t)(entry + 1);
}

static csp_status grow_slots(csp_string_table *table)
{
    const int64_t count = table->slot_count > 0 ? table->slot_count * 2 : 64;
    int32_t *slots;

    CSP_TRY(csp_alloc_zero("tokenizer vocabulary", count, sizeof(*slots), &slots));
    free(table->slots);
    table->slots = slots;
    table->slot_count = count;
    for (int64_t i = 0; i < table->count; i++) {
        put_slot(table, i);
    }
    return CSP_OK;
}

csp_status csp_string_table_add(csp_string_table *table, const char *bytes, int64_t count,
                                int32_t id)
{
    csp_string_entry *entry;

    if ((table->count + 1) * 2 > table->slot_count) {
        CSP_TRY(grow_slots(table));
    }
    CSP_TRY(csp_grow("tokenizer vocabulary", table->count + 1, sizeof(*entry), &table->entries,
                     &table->room));
    entry = &table->entries[table->count];
    entry->at = table->text.count;
    entry->length = (int32_t)count;
    entry->id = id;
    entry->hash = (uint32_t)csp_string_hash(bytes, count);
    CSP_TRY(csp_text_buffer_reserve(&table->text, count + 1));
    CSP_TRY(csp_text_buffer_add(&table->text, bytes, count));
    CSP_TRY(csp_text_buffer_add(&table->text, "", 1));
    put_slot(table, table->count);
    table->count++;
    return CSP_OK;
}

int32_t csp_string_table_find(const csp_string_table *table, const char *bytes, int64_t count)
{
    const uint32_t hash = (uint32_t)csp_string_hash(bytes, count);
    const int64_t mask = table->slot_count - 1;

    if (table->slot_count == 0) {
        return -1;
    }
    for (int64_t slot = (int64_t)hash & mask; table->slots[slot] != 0; slot = (slot + 1) & mask) {
        const csp_string_entry *entry = &table->entries[table->slots[slot] - 1];

        if (entry->hash == hash && entry->length == count &&
            memcmp(table->text.bytes + entry->at, bytes, (size_t)count) == 0) {
            return entry->id;
        }
    }
    return -1;
}

void csp_string_table_clear(csp_string_table *table)
{
    csp_text_buffer_clear(&table->text);
    free(table->entries);
    free(table->slots);
    *table = (csp_string_table) { 0 };
}

static int64_t merge_slot(const csp_merge_table *table, uint64_t pair)
{
    return (int64_t)((pair * 0x9E3779B97F4A7C15u) >> 32) & (table->slot_count - 1);
}

csp_status csp_merge_table_create(int64_t merges, csp_merge_table *table)
{
    int64_t count = 16;

    while (count < merges + merges / 2) {
        count *= 2;
    }
    CSP_TRY(csp_alloc("tokenizer merges", count, sizeof(*table->slots), &table->slots));
    table->slot_count = count;
    for (int64_t i = 0; i < count; i++) {
        table->slots[i].pair = CSP_NO_PAIR;
    }
    return CSP_OK;
}

void csp_merge_table_set(csp_merge_table *table, int32_t left, int32_t right, int32_t rank,
                         int32_t id)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    int64_t slot = merge_slot(table, pair);

    while (table->slots[slot].pair != CSP_NO_PAIR && table->slots[slot].pair != pair) {
        slot = (slot + 1) & (table->slot_count - 1);
    }
    table->slots[slot] = (csp_merge) { .pair = pair, .rank = rank, .id = id };
}

const csp_merge *csp_merge_table_find(const csp_merge_table *table, int32_t left, int32_t right)
{
    const uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    int64_t slot = merge_slot(table, pair);

    while (table->slots[slot].pair != CSP_NO_PAIR) {
        if (table->slots[slot].pair == pair) {
            return &table->slots[slot];
        }
        slot = (slot + 1) & (table->slot_count - 1);
    }
    return NULL;
}
