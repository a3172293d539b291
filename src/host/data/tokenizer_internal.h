/*
 * tokenizer_internal.h - private to data/tokenizer*.c: the parts of a tokenizer in the order in
 * which a text passes them.
 *
 *     text -> added tokens cut out -> normalizers -> (normalized added tokens cut out)
 *          -> pre-tokenizers: pieces -> BPE: ids -> post-processor: ids in front and behind
 *
 * Everything but the scratch is constant after loading.
 */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <pthread.h>
#include <stddef.h>

#include "data/heap.h"
#include "data/tokenizer.h"

/* ---- tokenizer_tables.c: growable text, strings to ids, pairs to merges ---- */

typedef struct csp_text_buffer {
    char *bytes;
    int64_t count;
    int64_t room;
} csp_text_buffer;

CSP_CHECKED csp_status csp_text_buffer_reserve(csp_text_buffer *buffer, int64_t more);
CSP_CHECKED csp_status csp_text_buffer_add(csp_text_buffer *buffer, const char *bytes,
                                           int64_t count);
/* Appends a code point as UTF-8. */
CSP_CHECKED csp_status csp_text_buffer_add_char(csp_text_buffer *buffer, int32_t c);
void csp_text_buffer_clear(csp_text_buffer *buffer);

/* Makes room for at least `needed` elements of a growable array; doubles. */
CSP_CHECKED csp_status csp_grow(const char *what, int64_t needed, size_t size, void *block,
                                int64_t *room);

CSP_CHECKED csp_status csp_token_list_add(csp_token_list *list, int32_t id);

/* One string of a table; the bytes are followed by a NUL. */
typedef struct csp_string_entry {
    int64_t at; /* in csp_string_table.text */
    int32_t length;
    int32_t id;
    uint32_t hash;
} csp_string_entry;

/* Strings to ids, by open addressing. */
typedef struct csp_string_table {
    csp_text_buffer text;
    csp_string_entry *entries;
    int64_t count;
    int64_t room;
    int32_t *slots; /* entry index + 1, 0 = free */
    int64_t slot_count;
} csp_string_table;

uint64_t csp_string_hash(const char *bytes, int64_t count);
/* Adds a string that is not yet there (the caller has looked). */
CSP_CHECKED csp_status csp_string_table_add(csp_string_table *table, const char *bytes,
                                            int64_t count, int32_t id);
/* -1 if absent. */
int32_t csp_string_table_find(const csp_string_table *table, const char *bytes, int64_t count);
void csp_string_table_clear(csp_string_table *table);

typedef struct csp_merge {
    uint64_t pair; /* left << 32 | right; CSP_NO_PAIR = a free slot */
    int32_t rank;
    int32_t id; /* of the merged token */
} csp_merge;

#define CSP_NO_PAIR UINT64_MAX

typedef struct csp_merge_table {
    csp_merge *slots;
    int64_t slot_count;
} csp_merge_table;

CSP_CHECKED csp_status csp_merge_table_create(int64_t merges, csp_merge_table *table);
/* A pair that is there already gets the new rank, as in Hugging Face. Room was made by create. */
void csp_merge_table_set(csp_merge_table *table, int32_t left, int32_t right, int32_t rank,
                         int32_t id);
const csp_merge *csp_merge_table_find(const csp_merge_table *table, int32_t left, int32_t right);

/* ---- tokenizer_unicode.c ---- */

/* The character at text (valid UTF-8) and its length. */
int32_t csp_utf8_next(const char *text, int *length);
/* Where the last character before end begins; end > 0. */
int64_t csp_utf8_before(const char *text, int64_t end);
/* Writes c to four bytes at most and returns how many. */
int csp_utf8_write(int32_t c, char out[4]);
/* Unicode's White_Space, which Rust's is_whitespace and Oniguruma's \s both are. */
bool csp_char_is_space(int32_t c);
/* \w of Rust's regex crate: Alphabetic, marks, decimal digits, connectors, joiners. */
bool csp_char_is_word(int32_t c);

/* ---- tokenizer_pattern.c: literal or regular expression ---- */

typedef struct csp_pattern {
    pcre2_code *code; /* NULL: literal */
    bool jit;
    char *literal;
    int64_t literal_bytes;
} csp_pattern;

/* where names the place for messages. CSP_ERR_UNSUPPORTED for syntax that means different things.
 */
CSP_CHECKED csp_status csp_pattern_regex(const char *where, const char *regex, csp_pattern *out);
CSP_CHECKED csp_status csp_pattern_literal(const char *where, const char *text, csp_pattern *out);
void csp_pattern_clear(csp_pattern *pattern);

/* What PCRE2 needs for one match at a time. */
typedef struct csp_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} csp_matcher;

CSP_CHECKED csp_status csp_matcher_init(csp_matcher *matcher);
void csp_matcher_clear(csp_matcher *matcher);

/* A walk over the matches of one text. Start from { 0, 0, -1 }. */
typedef struct csp_match {
    int64_t begin;
    int64_t end;
    int64_t last; /* end of the last match, -1 before the first */
} csp_match;

/* The next match from match->end on; *found false at the end. */
CSP_CHECKED csp_status csp_pattern_next(const csp_pattern *pattern, csp_matcher *matcher,
                                        const char *text, int64_t bytes, csp_match *match,
                                        bool *found);

/* Bytes of one text: symbols are counted in 32 bits. */
#define CSP_TEXT_LIMIT ((int64_t)1 << 30)

/*
 * Refuses what steps have made of a text where it is much more than any published file makes
 * (the Unicode forms: up to 11 times as much), so that forty steps which double it end.
 */
CSP_CHECKED csp_status csp_check_growth(int64_t made, int64_t from);

/* ---- the stages ---- */

typedef enum csp_normal_kind {
    CSP_NORMAL_FORM, /* one of the four Unicode forms */
    CSP_NORMAL_LOWERCASE,
    CSP_NORMAL_PREPEND,
    CSP_NORMAL_REPLACE,
    CSP_NORMAL_STRIP
} csp_normal_kind;

typedef struct csp_normal {
    csp_normal_kind kind;
    int form; /* options of utf8proc */
    bool left;
    bool right;
    csp_pattern pattern;
    char *content;
} csp_normal;

typedef enum csp_split_behavior {
    CSP_SPLIT_REMOVED,
    CSP_SPLIT_ISOLATED,
    CSP_SPLIT_MERGED_WITH_PREVIOUS,
    CSP_SPLIT_MERGED_WITH_NEXT,
    CSP_SPLIT_CONTIGUOUS
} csp_split_behavior;

typedef enum csp_presplit_kind {
    CSP_PRESPLIT_PATTERN,
    CSP_PRESPLIT_METASPACE,
    CSP_PRESPLIT_PREFIX_SPACE, /* of ByteLevel */
    CSP_PRESPLIT_WORDS         /* ours: cut where no merge can reach across */
} csp_presplit_kind;

typedef enum csp_prepend_scheme {
    CSP_PREPEND_ALWAYS,
    CSP_PREPEND_FIRST,
    CSP_PREPEND_NEVER
} csp_prepend_scheme;

typedef struct csp_presplit {
    csp_presplit_kind kind;
    csp_pattern pattern;
    csp_split_behavior behavior;
    bool invert;
    char mark[5]; /* Metaspace: the replacement character */
    csp_prepend_scheme prepend;
    bool split;
} csp_presplit;

typedef enum csp_decode_kind {
    CSP_DECODE_BYTE_LEVEL,
    CSP_DECODE_METASPACE,
    CSP_DECODE_REPLACE,
    CSP_DECODE_BYTE_FALLBACK,
    CSP_DECODE_FUSE,
    CSP_DECODE_STRIP
} csp_decode_kind;

typedef struct csp_decode_step {
    csp_decode_kind kind;
    csp_pattern pattern;
    char *content;
    char mark[5];
    bool drop_first; /* Metaspace: the first token loses its marks */
    int64_t start;
    int64_t stop;
} csp_decode_step;

/* ---- tokenizer_added.c: added tokens, found leftmost-longest ---- */

typedef struct csp_added_token {
    char *content;
    char *normal; /* what is looked for in normalized text and given when decoding; or NULL */
    int32_t id;
    bool special;
    bool single_word;
    bool lstrip;
    bool rstrip;
    bool normalized;
} csp_added_token;

typedef struct csp_trie_node {
    int32_t child;   /* 0 = none */
    int32_t sibling; /* 0 = none */
    int32_t token;   /* index of an added token, -1 = none */
    unsigned char byte;
} csp_trie_node;

typedef struct csp_trie {
    csp_trie_node *nodes; /* nodes[0] is the root */
    int32_t first[256];   /* child of the root by byte, 0 = none */
    int64_t count;
    int64_t room;
} csp_trie;

CSP_CHECKED csp_status csp_trie_add(csp_trie *trie, const char *bytes, int64_t count,
                                    int32_t token);
void csp_trie_clear(csp_trie *trie);

/* A walk over a text: each step is an added token or the text between two. Start from { 0 }. */
typedef struct csp_added_walk {
    int64_t begin; /* of what the last step returned */
    int64_t end;
    int32_t token;   /* index, -1 = text */
    int64_t search;  /* where the next search begins */
    int32_t pending; /* a token found behind the text just returned, plus 1 */
    int64_t pending_begin;
    int64_t pending_end;
} csp_added_walk;

/* False at the end. */
bool csp_added_next(const csp_tokenizer *tokenizer, const csp_trie *trie, const char *text,
                    int64_t bytes, csp_added_walk *walk);

/* ---- the tokenizer and the memory of one encoding thread ---- */

typedef struct csp_piece {
    int64_t begin;
    int64_t end;
    bool first; /* begins where the text given to encode begins */
} csp_piece;

typedef struct csp_piece_list {
    csp_piece *pieces;
    int64_t count;
    int64_t room;
} csp_piece_list;

typedef struct csp_symbol {
    int32_t id;
    int32_t previous; /* -1 = none */
    int32_t next;     /* -1 = none */
    bool live;
} csp_symbol;

enum { CSP_CACHE_SLOTS = 1 << 15, CSP_CACHE_BYTES = 26, CSP_CACHE_IDS = 9 };

/* The ids of one short piece. */
typedef struct csp_cached_word {
    int32_t ids[CSP_CACHE_IDS];
    uint8_t bytes; /* 0 = a free slot */
    uint8_t count;
    char text[CSP_CACHE_BYTES];
} csp_cached_word;

typedef struct csp_scratch {
    struct csp_scratch *next; /* in the free list */
    csp_text_buffer normal[2];
    csp_text_buffer pretext[2];
    csp_piece_list pieces[2];
    csp_piece_list matches; /* first = is a match */
    csp_text_buffer mapped; /* a byte-level piece in its printable spelling */
    int32_t *chars;         /* a text as code points */
    int64_t char_room;
    int32_t *marks; /* a run of combining marks */
    int64_t mark_room;
    csp_symbol *symbols;
    int64_t symbol_count;
    int64_t symbol_room;
    csp_heap merges;        /* candidates: (rank, left symbol), the id of the merged token */
    csp_cached_word *cache; /* [CSP_CACHE_SLOTS] */
    csp_matcher matcher;
} csp_scratch;

typedef struct csp_scratch_pool {
    pthread_mutex_t lock;
    csp_scratch *free;
} csp_scratch_pool;

struct csp_tokenizer {
    char *name;
    char *source;
    int64_t source_bytes;

    csp_string_table vocab;       /* the model's */
    csp_string_table added_vocab; /* contents of all added tokens */
    const char **tokens;          /* [size] by id, as in the file; NULL = none */
    const char **decoded;         /* [size] the same with added tokens normalized where they are */
    bool *special;                /* [size] */
    int64_t size;

    csp_added_token *added;
    int64_t added_count;
    csp_trie raw_trie;    /* added tokens looked for in the text as given */
    csp_trie normal_trie; /* added tokens looked for in normalized text */

    csp_normal *normals;
    int64_t normal_count;
    csp_presplit *presplits;
    int64_t presplit_count;
    csp_decode_step *decodes;
    bool joined_by_spaces; /* there is no decoder */
    int64_t decode_count;
    csp_token_list prefix;
    csp_token_list suffix;

    csp_merge_table merges;
    bool byte_level; /* symbols are bytes, written as printable characters in the vocabulary */
    int32_t byte_ids[256];     /* byte level: of each byte, -1 = not in the vocabulary */
    int32_t fallback_ids[256]; /* byte_fallback: of "<0xHH>", -1 */
    bool byte_fallback;
    bool fuse_unk;
    bool ignore_merges;
    char *unk_token; /* NULL = unknown characters vanish */
    int32_t unk_id;  /* -1 = named, but not in the vocabulary */

    csp_scratch_pool *pool;
};

/* The printable character that stands for a byte in byte-level vocabularies. */
int32_t csp_byte_to_char(unsigned char byte);
/* The byte that a character stands for, -1 if none. */
int csp_char_to_byte(int32_t c);

CSP_CHECKED csp_status csp_scratch_create(csp_scratch **out);
void csp_scratch_destroy(csp_scratch *scratch);

/*
 * tokenizer_normalize.c: *text may end up in the scratch, valid until the next call. *first becomes
 * false if characters at the beginning are taken away.
 */
CSP_CHECKED csp_status csp_normalize(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                                     const char **text, int64_t *bytes, bool *first);

/*
 * tokenizer_split.c: cuts normalized text into pieces; *text may end up in the scratch.
 * first: the text stands at the beginning of what was given to encode.
 */
CSP_CHECKED csp_status csp_presplit_text(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                                         bool first, const char **text, int64_t bytes,
                                         const csp_piece_list **out);

/* tokenizer_bpe.c: appends the ids of one piece. */
CSP_CHECKED csp_status csp_bpe_encode(const csp_tokenizer *tokenizer, csp_scratch *scratch,
                                      const char *piece, int64_t bytes, csp_token_list *out);

/* ---- loading ---- */

/* tokenizer_json.c: typed members of JSON objects; where is "tokenizer.json: pre_tokenizer". */
CSP_CHECKED csp_status csp_json_only_keys(const char *where, const json_t *object,
                                          const char *const *keys);
CSP_CHECKED csp_status csp_json_text(const char *where, const json_t *object, const char *key,
                                     const char **out);
/* A missing or null member gives the fallback. */
CSP_CHECKED csp_status csp_json_bool(const char *where, const json_t *object, const char *key,
                                     bool fallback, bool *out);
CSP_CHECKED csp_status csp_json_int(const char *where, const json_t *object, const char *key,
                                    int64_t min, int64_t max, int64_t *out);
CSP_CHECKED csp_status csp_json_array(const char *where, const json_t *object, const char *key,
                                      const json_t **out);
/* {"String": s} or {"Regex": s} at key. */
CSP_CHECKED csp_status csp_json_pattern(const char *where, const json_t *object, const char *key,
                                        csp_pattern *out);
/* One character, as UTF-8 with a NUL. */
CSP_CHECKED csp_status csp_json_char(const char *where, const json_t *object, const char *key,
                                     char out[5]);

/* "pre_tokenizer is of type X, which csplade does not support". CSP_ERR_UNSUPPORTED. */
CSP_CHECKED csp_status csp_unknown_type(const char *where, const char *type);

/* Loads one step, no Sequence, of a stage. */
typedef csp_status (*csp_load_step)(csp_tokenizer *tokenizer, const char *where,
                                    const json_t *object, const char *type);

/*
 * Calls load for a stage's object, or, where that is a Sequence, for each member of its list in
 * order; sequences may hold sequences. Errors: CSP_ERR_FORMAT, CSP_ERR_UNSUPPORTED (nested too
 * deep), what load returns.
 */
CSP_CHECKED csp_status csp_load_steps(csp_tokenizer *tokenizer, const char *where,
                                      const json_t *object, const char *list, csp_load_step load);

/* tokenizer_model.c: vocabulary and merges; tokenizer_stages.c and _ends.c: what is around. */
CSP_CHECKED csp_status csp_load_model(csp_tokenizer *tokenizer, const json_t *root);
CSP_CHECKED csp_status csp_load_normalizer(csp_tokenizer *tokenizer, const json_t *root);
CSP_CHECKED csp_status csp_load_pre_tokenizer(csp_tokenizer *tokenizer, const json_t *root);
CSP_CHECKED csp_status csp_load_post_processor(csp_tokenizer *tokenizer, const json_t *root);
CSP_CHECKED csp_status csp_load_decoder(csp_tokenizer *tokenizer, const json_t *root);

/* ---- training ---- */

typedef struct csp_trained_merge {
    int32_t left;
    int32_t right;
    int32_t id; /* of the merged token */
} csp_trained_merge;

/* What training finds. */
typedef struct csp_trained {
    csp_string_table tokens; /* bytes of each token; entry i is id i */
    csp_trained_merge *merges;
    int64_t merge_count;
    int64_t merge_room;
} csp_trained;

/* tokenizer_count.c: distinct pieces of the texts, and how often each occurs. */
typedef struct csp_word_counts {
    csp_string_table words; /* entry i is word i */
    int64_t *counts;
    int64_t room;
} csp_word_counts;

/* splitter: a tokenizer whose normalizer and pre-tokenizers cut the texts. */
CSP_CHECKED csp_status csp_count_words(const csp_tokenizer *splitter, csp_text_source next,
                                       void *context, csp_word_counts *out);
void csp_word_counts_clear(csp_word_counts *counts);

/* tokenizer_merges.c: finds the merges for words; trained holds the 256 bytes as tokens 0..255. */
CSP_CHECKED csp_status csp_find_merges(const csp_word_counts *words, int64_t token_limit,
                                       int64_t min_frequency, csp_trained *trained);

/* tokenizer_save.c: the tokenizer.json of what was trained. */
CSP_CHECKED csp_status csp_write_trained(const csp_tokenizer_train_options *options,
                                         const csp_trained *trained, csp_text_buffer *out);
