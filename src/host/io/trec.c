/*
 * trec.c - reading judgements and runs.
 *
 * The file is read once into a flat list of rows (query number, offset of the document id, value,
 * line) beside one block of id text; a counting sort then groups the rows by query.
 */
#include "io/trec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <xxhash.h>

#include "core/memory.h"
#include "core/number.h"
#include "io/lines.h"

enum { MAX_COLUMNS = 6, TABLE_FIRST = 64 };

typedef struct flat_row {
    int64_t query;
    int64_t doc; /* offset in text */
    int64_t line;
    double value;
} flat_row;

/* What csp_trec.memory points to: everything the rows point into, and the table of queries. */
typedef struct store {
    char *text; /* ids, each with its NUL */
    int64_t text_used, text_capacity;
    int64_t *table; /* open addressing: query number + 1, 0 = free */
    int64_t table_size;
    csp_trec_row *rows;
} store;

typedef struct reader {
    csp_lines *lines;
    const char *kind; /* "judgements" or "a run", for messages */
    int full;         /* columns of the long form: 4 or 6 */
    int columns;      /* of this file, 0 before the first row */
    flat_row *rows;
    int64_t count, capacity;
    int64_t *query_text; /* offset of each query's id */
    int64_t queries, queries_capacity;
    int64_t last_query; /* of the row before, -1 at the start: files come grouped */
    store *store;
} reader;

static csp_status grow(const char *what, int64_t needed, size_t size, int64_t *capacity,
                       void *block)
{
    int64_t larger = *capacity > 0 ? *capacity : 1024;

    if (needed <= *capacity) {
        return CSP_OK;
    }
    while (larger < needed) {
        larger *= 2;
    }
    CSP_TRY(csp_realloc(what, larger, size, block));
    *capacity = larger;
    return CSP_OK;
}

static csp_status keep_text(reader *r, const char *id, int64_t *offset)
{
    store *s = r->store;
    const int64_t bytes = (int64_t)strlen(id) + 1;

    CSP_TRY(grow(csp_lines_path(r->lines), s->text_used + bytes, 1, &s->text_capacity, &s->text));
    memcpy(s->text + s->text_used, id, (size_t)bytes);
    *offset = s->text_used;
    s->text_used += bytes;
    return CSP_OK;
}

/* Place of id in the table: its own, or the free one where it belongs. */
static int64_t table_place(const store *s, const char *id,
                           const char *(*id_of)(const void *, int64_t), const void *owner)
{
    const uint64_t mask = (uint64_t)s->table_size - 1;
    uint64_t at = XXH3_64bits(id, strlen(id)) & mask;

    while (s->table[at] != 0 && strcmp(id_of(owner, s->table[at] - 1), id) != 0) {
        at = (at + 1) & mask;
    }
    return (int64_t)at;
}

static const char *id_while_reading(const void *owner, int64_t query)
{
    const reader *r = owner;

    return r->store->text + r->query_text[query];
}

static const char *id_when_read(const void *owner, int64_t query)
{
    return ((const csp_trec *)owner)->queries[query].query_id;
}

static csp_status grow_table(reader *r)
{
    store *s = r->store;
    int64_t *larger;

    if (s->table_size > 2 * (r->queries + 1)) {
        return CSP_OK;
    }
    const int64_t size = s->table_size > 0 ? 4 * s->table_size : TABLE_FIRST;
    CSP_TRY(csp_alloc_zero(csp_lines_path(r->lines), size, sizeof(*larger), &larger));
    free(s->table);
    s->table = larger;
    s->table_size = size;
    for (int64_t q = 0; q < r->queries; q++) {
        s->table[table_place(s, id_while_reading(r, q), id_while_reading, r)] = q + 1;
    }
    return CSP_OK;
}

static csp_status query_number(reader *r, const char *id, int64_t *out)
{
    int64_t place;

    if (r->last_query >= 0 && strcmp(id_while_reading(r, r->last_query), id) == 0) {
        *out = r->last_query;
        return CSP_OK;
    }
    CSP_TRY(grow_table(r));
    place = table_place(r->store, id, id_while_reading, r);
    if (r->store->table[place] == 0) {
        CSP_TRY(grow(csp_lines_path(r->lines), r->queries + 1, sizeof(*r->query_text),
                     &r->queries_capacity, &r->query_text));
        CSP_TRY(keep_text(r, id, &r->query_text[r->queries]));
        r->queries++;
        r->store->table[place] = r->queries;
    }
    *out = r->last_query = r->store->table[place] - 1;
    return CSP_OK;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Cuts line at white space; returns the number of columns, of which the first MAX_COLUMNS are kept.
 */
static int split(char *line, char *columns[MAX_COLUMNS])
{
    int count = 0;

    for (;;) {
        while (is_space(*line)) {
            line++;
        }
        if (*line == '\0') {
            return count;
        }
        if (count < MAX_COLUMNS) {
            columns[count] = line;
        }
        count++;
        while (*line != '\0' && !is_space(*line)) {
            line++;
        }
        if (*line != '\0') {
            *line++ = '\0';
        }
    }
}

/* A finite decimal number and nothing else. */
static bool parse_number(const char *text, double *out)
{
    return csp_parse_f64(text, out) && isfinite(*out);
}

/* Whether the third of three columns at the top is a name, as in BEIR's header; no bad number. */
static bool is_name(const char *text)
{
    const char c = (char)(text[0] | 0x20);

    return (text[0] < 0 || (c >= 'a' && c <= 'z')) && strcasecmp(text, "nan") != 0 &&
           strcasecmp(text, "inf") != 0 && strcasecmp(text, "infinity") != 0;
}

/* Columns with something in them between tabs; 0 without a tab. */
static int tab_columns(const char *line)
{
    int count = 0;
    bool tab = false, filled = false;

    for (; *line != '\0'; line++) {
        tab = tab || *line == '\t';
        if (*line == '\t') {
            filled = false;
        } else if (!filled && !is_space(*line)) {
            filled = true;
            count++;
        }
    }
    return tab ? count : 0;
}

static csp_status add_row(reader *r, char *columns[MAX_COLUMNS], double value)
{
    const bool full = r->columns == r->full;
    flat_row *row;

    CSP_TRY(grow(csp_lines_path(r->lines), r->count + 1, sizeof(*r->rows), &r->capacity, &r->rows));
    row = &r->rows[r->count];
    CSP_TRY(query_number(r, columns[0], &row->query));
    CSP_TRY(keep_text(r, columns[full ? 2 : 1], &row->doc));
    row->line = csp_lines_number(r->lines);
    row->value = value;
    r->count++;
    return CSP_OK;
}

static csp_status read_line(reader *r, char *line, int64_t bytes)
{
    const char *path = csp_lines_path(r->lines);
    const long long number = (long long)csp_lines_number(r->lines);
    char *columns[MAX_COLUMNS];
    int64_t at;
    int tabbed, count, value_at;
    double value;

    if (memchr(line, '\0', (size_t)bytes) != NULL) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: a NUL byte in a line of text", path, number);
    }
    if (!csp_utf8_is_valid(line, bytes, &at)) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: invalid UTF-8 at byte %lld of the line", path,
                        number, (long long)at + 1);
    }
    tabbed = tab_columns(line);
    count = split(line, columns);
    if (count == 0) {
        return CSP_OK;
    }
    if (tabbed != count && (tabbed == 3 || tabbed == r->full)) {
        return CSP_FAIL(CSP_ERR_FORMAT,
                        "%s:%lld: %d columns by its tabs, %d by its spaces: ids must not have a "
                        "space in them",
                        path, number, tabbed, count);
    }
    if (count != 3 && count != r->full) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %d columns, but %s has %d or 3", path, number,
                        count, r->kind, r->full);
    }
    if (r->columns != 0 && count != r->columns) {
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: %d columns, but the lines above have %d", path,
                        number, count, r->columns);
    }
    value_at = count == 3 ? 2 : r->full == 4 ? 3 : 4;
    if (!parse_number(columns[value_at], &value)) {
        if (number == 1 && count == 3 && is_name(columns[2])) {
            return CSP_OK; /* the header line of BEIR */
        }
        return CSP_FAIL(CSP_ERR_FORMAT, "%s:%lld: column %d is \"%.40s\", not a number", path,
                        number, value_at + 1, columns[value_at]);
    }
    r->columns = count;
    return add_row(r, columns, value);
}

/* Moves the rows into groups, which keeps the file's order inside each. */
static csp_status group(reader *r, csp_trec *trec)
{
    const char *path = csp_lines_path(r->lines);
    store *s = r->store;
    int64_t first = 0;

    CSP_TRY(csp_alloc_zero(path, r->queries, sizeof(*trec->queries), &trec->queries));
    CSP_TRY(csp_alloc(path, r->count, sizeof(*s->rows), &s->rows));
    trec->count = r->queries;
    for (int64_t i = 0; i < r->count; i++) {
        trec->queries[r->rows[i].query].count++;
    }
    for (int64_t q = 0; q < r->queries; q++) {
        trec->queries[q].query_id = id_while_reading(r, q);
        trec->queries[q].rows = s->rows + first;
        first += trec->queries[q].count;
        trec->queries[q].count = 0;
    }
    for (int64_t i = 0; i < r->count; i++) {
        csp_trec_query *query = &trec->queries[r->rows[i].query];

        query->rows[query->count].doc_id = s->text + r->rows[i].doc;
        query->rows[query->count].value = r->rows[i].value;
        query->count++;
    }
    return CSP_OK;
}

typedef struct pair {
    int64_t query, line;
    const char *doc;
} pair;

static int by_pair(const void *a, const void *b)
{
    const pair *x = a, *y = b;
    int order;

    if (x->query != y->query) {
        return x->query < y->query ? -1 : 1;
    }
    order = strcmp(x->doc, y->doc);
    return order != 0 ? order : (x->line > y->line) - (x->line < y->line);
}

static csp_status refuse_twice(const reader *r)
{
    const char *path = csp_lines_path(r->lines);
    const pair *twice = NULL;
    pair *pairs;

    CSP_TRY(csp_alloc(path, r->count, sizeof(*pairs), &pairs));
    for (int64_t i = 0; i < r->count; i++) {
        pairs[i].query = r->rows[i].query;
        pairs[i].line = r->rows[i].line;
        pairs[i].doc = r->store->text + r->rows[i].doc;
    }
    qsort(pairs, (size_t)r->count, sizeof(*pairs), by_pair);
    for (int64_t i = 1; i < r->count; i++) {
        if (pairs[i].query == pairs[i - 1].query && strcmp(pairs[i].doc, pairs[i - 1].doc) == 0 &&
            (twice == NULL || pairs[i].line < twice->line)) {
            twice = &pairs[i];
        }
    }
    if (twice != NULL) {
        (void)CSP_FAIL(CSP_ERR_DATA, "%s:%lld: query %s and document %s come a second time", path,
                       (long long)twice->line, id_while_reading(r, twice->query), twice->doc);
        free(pairs);
        return CSP_ERR_DATA;
    }
    free(pairs);
    return CSP_OK;
}

/* Turns MS MARCO's ranks into scores, if that is what the third column holds. */
static void ranks_to_scores(csp_trec *trec)
{
    for (int64_t q = 0; q < trec->count; q++) {
        for (int64_t i = 0; i < trec->queries[q].count; i++) {
            if (trec->queries[q].rows[i].value != (double)(i + 1)) {
                return;
            }
        }
    }
    for (int64_t q = 0; q < trec->count; q++) {
        for (int64_t i = 0; i < trec->queries[q].count; i++) {
            trec->queries[q].rows[i].value = 1.0 / (double)(i + 1);
        }
    }
}

static csp_status read_file(const char *path, const char *kind, int full,
                            csp_status (*still)(void *), void *context, csp_trec **out)
{
    reader r = { .kind = kind, .full = full, .last_query = -1 };
    csp_trec *trec = NULL;
    csp_status status;
    char *line;
    int64_t bytes;

    CSP_TRY(csp_alloc_zero(path, 1, sizeof(*trec), &trec));
    CSP_TRY_GOTO(csp_alloc_zero(path, 1, sizeof(store), &trec->memory));
    r.store = trec->memory;
    CSP_TRY_GOTO(csp_lines_open(path, &r.lines));
    CSP_TRY_GOTO(grow_table(&r)); /* so that a file without rows can be searched too */
    for (;;) {
        CSP_TRY_GOTO(csp_lines_next(r.lines, &line, &bytes));
        if (line == NULL) {
            break;
        }
        CSP_TRY_GOTO(read_line(&r, line, bytes));
        if (still != NULL) {
            CSP_TRY_GOTO(still(context));
        }
    }
    CSP_TRY_GOTO(refuse_twice(&r));
    CSP_TRY_GOTO(group(&r, trec));
    if (full == 6 && r.columns == 3) {
        ranks_to_scores(trec);
    }
    *out = trec;
    trec = NULL;
fail:
    csp_lines_close(r.lines);
    free(r.rows);
    free(r.query_text);
    csp_trec_free(trec);
    return status;
}

csp_status csp_qrels_read_while(const char *path, csp_status (*still)(void *), void *context,
                                csp_trec **out)
{
    return read_file(path, "a file of judgements", 4, still, context, out);
}

csp_status csp_qrels_read(const char *path, csp_trec **out)
{
    return csp_qrels_read_while(path, NULL, NULL, out);
}

csp_status csp_run_read(const char *path, csp_trec **out)
{
    return read_file(path, "a run", 6, NULL, NULL, out);
}

void csp_trec_free(csp_trec *trec)
{
    if (trec == NULL) {
        return;
    }
    if (trec->memory != NULL) {
        store *s = trec->memory;

        free(s->text);
        free(s->table);
        free(s->rows);
        free(s);
    }
    free(trec->queries);
    free(trec);
}

void csp_trec_keep(csp_trec *trec, const uint8_t *marks)
{
    store *s = trec->memory;
    int64_t kept = 0;

    memset(s->table, 0, (size_t)s->table_size * sizeof(*s->table));
    for (int64_t q = 0; q < trec->count; q++) {
        if (marks[q] != 0) {
            trec->queries[kept++] = trec->queries[q];
            s->table[table_place(s, trec->queries[kept - 1].query_id, id_when_read, trec)] = kept;
        }
    }
    trec->count = kept;
}

const csp_trec_query *csp_trec_find(const csp_trec *trec, const char *query_id)
{
    const store *s = trec->memory;
    const int64_t place = table_place(s, query_id, id_when_read, trec);

    return s->table[place] == 0 ? NULL : &trec->queries[s->table[place] - 1];
}
