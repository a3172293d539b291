/* id_table.c - open addressing with linear probing; slots hold ordinal + 1 and 32 bits of hash. */
#include "data/id_table.h"

#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

typedef struct id_slot {
    uint32_t check; /* upper half of the hash: most misses never touch the ids */
    uint32_t index; /* ordinal + 1, 0 = empty                                  */
} id_slot;

struct csp_id_table {
    char *bytes;   /* the ids, each with its NUL           */
    int64_t used;  /* of bytes                             */
    int64_t room;  /* of bytes                             */
    int64_t *from; /* start of each id in bytes            */
    int64_t count, limit;
    id_slot *slots;
    int64_t slot_count; /* a power of two, at least 4/3 of count */
    bool is_given;      /* the arrays are an image's */
};

/* FNV-1a, then the finaliser of MurmurHash3, which spreads the last bytes over all bits. */
uint64_t csp_hash_bytes(const char *bytes, int64_t count)
{
    uint64_t h = 0xCBF29CE484222325u;

    for (int64_t i = 0; i < count; i++) {
        h = (h ^ (unsigned char)bytes[i]) * 0x100000001B3u;
    }
    h = (h ^ (h >> 33)) * 0xFF51AFD7ED558CCDu;
    h = (h ^ (h >> 33)) * 0xC4CEB9FE1A85EC53u;
    return h ^ (h >> 33);
}

csp_status csp_id_table_create(csp_id_table **out)
{
    csp_status status;
    csp_id_table *table = NULL;

    CSP_TRY(csp_alloc_zero("id table", 1, sizeof(*table), &table));
    table->slot_count = 64;
    CSP_TRY_GOTO(csp_alloc_zero("id table", table->slot_count, sizeof(id_slot), &table->slots));
    *out = table;
    return CSP_OK;

fail:
    csp_id_table_destroy(table);
    return status;
}

void csp_id_table_destroy(csp_id_table *table)
{
    if (table == NULL) {
        return;
    }
    if (!table->is_given) {
        free(table->bytes);
        free(table->from);
        free(table->slots);
    }
    free(table);
}

/* The slot that holds id, or the empty one where it belongs. */
static int64_t find_slot(const csp_id_table *table, const char *id, int64_t bytes, uint64_t hash)
{
    const uint32_t check = (uint32_t)(hash >> 32);
    int64_t slot = (int64_t)(hash & (uint64_t)(table->slot_count - 1));

    while (table->slots[slot].index != 0) {
        if (table->slots[slot].check == check) {
            const int64_t at = (int64_t)table->slots[slot].index - 1;
            const int64_t end = at + 1 < table->count ? table->from[at + 1] : table->used;

            if (end - table->from[at] - 1 == bytes &&
                memcmp(table->bytes + table->from[at], id, (size_t)bytes) == 0) {
                break;
            }
        }
        slot = (slot + 1) & (table->slot_count - 1);
    }
    return slot;
}

static csp_status grow_slots(csp_id_table *table)
{
    const int64_t wanted = table->slot_count * 2;
    id_slot *old = table->slots;

    CSP_TRY(csp_alloc_zero("id table", wanted, sizeof(id_slot), &table->slots));
    table->slot_count = wanted;
    for (int64_t i = 0; i < table->count; i++) {
        const char *id = table->bytes + table->from[i];
        const uint64_t hash = csp_hash_bytes(id, (int64_t)strlen(id));
        int64_t slot = (int64_t)(hash & (uint64_t)(wanted - 1));

        while (table->slots[slot].index != 0) {
            slot = (slot + 1) & (wanted - 1);
        }
        table->slots[slot] = (id_slot) { (uint32_t)(hash >> 32), (uint32_t)(i + 1) };
    }
    free(old);
    return CSP_OK;
}

static csp_status make_room(csp_id_table *table, int64_t bytes)
{
    if (table->count >= INT32_MAX) {
        return CSP_FAIL(CSP_ERR_MEMORY, "id table: more than %d ids", INT32_MAX);
    }
    if (table->used + bytes + 1 > table->room) {
        const int64_t room = (table->used + bytes + 1) * 3 / 2 + 1024;

        CSP_TRY(csp_realloc("id table", room, 1, &table->bytes));
        table->room = room;
    }
    if (table->count == table->limit) {
        const int64_t limit = table->limit * 3 / 2 + 64;

        CSP_TRY(csp_realloc("id table", limit, sizeof(*table->from), &table->from));
        table->limit = limit;
    }
    return (table->count + 1) * 4 > table->slot_count * 3 ? grow_slots(table) : CSP_OK;
}

csp_status csp_id_table_add(csp_id_table *table, const char *id, int64_t bytes, int64_t *index,
                            bool *is_new)
{
    const uint64_t hash = csp_hash_bytes(id, bytes);
    int64_t slot = find_slot(table, id, bytes, hash);

    CSP_ASSERT(!table->is_given);
    if (table->slots[slot].index != 0) {
        *index = (int64_t)table->slots[slot].index - 1;
        *is_new = false;
        return CSP_OK;
    }
    CSP_TRY(make_room(table, bytes));
    slot = find_slot(table, id, bytes, hash); /* the slots may have been laid out anew */
    memcpy(table->bytes + table->used, id, (size_t)bytes);
    table->bytes[table->used + bytes] = '\0';
    table->from[table->count] = table->used;
    table->used += bytes + 1;
    table->slots[slot] = (id_slot) { (uint32_t)(hash >> 32), (uint32_t)(table->count + 1) };
    *index = table->count++;
    *is_new = true;
    return CSP_OK;
}

int64_t csp_id_table_find(const csp_id_table *table, const char *id, int64_t bytes)
{
    const int64_t slot = find_slot(table, id, bytes, csp_hash_bytes(id, bytes));

    return (int64_t)table->slots[slot].index - 1;
}

const char *csp_id_table_id(const csp_id_table *table, int64_t index)
{
    return table->bytes + table->from[index];
}

int64_t csp_id_table_count(const csp_id_table *table)
{
    return table->count;
}

csp_status csp_id_table_share(csp_image *image, csp_id_table **table)
{
    csp_id_table *t = *table;

    if (t == NULL) {
        CSP_TRY(csp_alloc_zero("id table", 1, sizeof(*t), &t));
        *table = t;
    }
    t->is_given = csp_image_gives(image);
    CSP_TRY(csp_image_array(image, &t->used, 1, &t->bytes));
    CSP_TRY(csp_image_array(image, &t->count, sizeof(*t->from), &t->from));
    CSP_TRY(csp_image_array(image, &t->slot_count, sizeof(*t->slots), &t->slots));
    t->room = t->used;
    t->limit = t->count;
    return CSP_OK;
}
