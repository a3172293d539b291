/*
 * contract.h - the text contract: how a text becomes tokens and a vector becomes a result.
 *
 * It is stored with a model and obeyed by training, encoding and searching alike, because a model
 * read under another contract fails silently (a public 1B checkpoint: nDCG@10 0.02 with BOS, 0.75
 * without). Turning a text into tokens under a contract is data/text_encoder.h.
 *
 * As JSON, every key present and no other allowed:
 *
 *     {"version": 1, "variant": "echo", "query_prefix": "query: ", "passage_prefix": "passage: ",
 *      "query_max_len": 192, "passage_max_len": 192, "add_bos": false, "append_eos": false,
 *      "bos_id": -1, "eos_id": -1, "title_separator": " ", "logit_scale": 1.0,
 *      "exclude_ids": [], "pooling": "max", "top_k_query": 0, "top_k_passage": 0,
 *      "quant_scale": 100.0}
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

/* How a unidirectional model sees both sides of a token (docs/method.md 2). */
typedef enum csp_variant {
    CSP_VARIANT_CAUSAL = 0,
    CSP_VARIANT_ECHO = 1, /* the text twice, only the second copy is pooled */
    CSP_VARIANT_BI = 2    /* every token attends to every token of its text */
} csp_variant;

typedef enum csp_pooling { CSP_POOLING_MAX = 0, CSP_POOLING_SUM = 1 } csp_pooling;

/* Which of a contract's two halves applies to a text. */
typedef enum csp_side { CSP_SIDE_QUERY = 0, CSP_SIDE_PASSAGE = 1 } csp_side;

/* Longest text a contract may ask for: twice this and the special tokens stay below 2^20. */
#define CSP_CONTRACT_MAX_LEN 262144

typedef struct csp_contract {
    csp_variant variant;
    char *query_prefix;      /* never NULL; owned, as are all pointers here           */
    char *passage_prefix;    /* never NULL                                            */
    int32_t query_max_len;   /* tokens of prefix and text, special tokens not counted */
    int32_t passage_max_len; /* 1..CSP_CONTRACT_MAX_LEN                               */
    bool add_bos;            /* one BOS in front of the text (of both echo copies)    */
    bool append_eos;         /* one EOS at the end of the text (of each echo copy)    */
    int32_t bos_id;          /* -1 = the tokenizer has none                           */
    int32_t eos_id;
    char *title_separator; /* between title and text of a document; never NULL       */
    double logit_scale;    /* logits are multiplied by this before the saturation    */
    int32_t *exclude_ids;  /* terms left out of every vector: ascending, distinct    */
    int64_t exclude_count;
    csp_pooling pooling;
    int32_t top_k_query; /* strongest terms kept, 0 = no cut                       */
    int32_t top_k_passage;
    double quant_scale; /* integer impact = round(weight * quant_scale)           */
} csp_contract;

/*
 * The standard contract: causal, "query: ", "passage: ", 192 tokens, neither BOS nor EOS,
 * scale 1, maximum pooling, no cut, impacts times 100.
 *
 * Owner:  the caller calls csp_contract_clear.
 * Errors: CSP_ERR_MEMORY; *contract is untouched then.
 */
CSP_CHECKED csp_status csp_contract_init(csp_contract *contract);

/* Frees what the contract owns and zeroes it. NULL and a zeroed struct are allowed. */
void csp_contract_clear(csp_contract *contract);

/* A deep copy. out must not be an initialised contract. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_contract_copy(const csp_contract *contract, csp_contract *out);

/*
 * Replaces one of the contract's texts, csp_contract_set_text(&c.query_prefix, "query: "), or the
 * excluded ids, which are sorted and made distinct. Errors: CSP_ERR_MEMORY; CSP_ERR_ARGUMENT for a
 * negative id.
 */
CSP_CHECKED csp_status csp_contract_set_text(char **field, const char *text);
CSP_CHECKED csp_status csp_contract_set_exclude_ids(csp_contract *contract, const int32_t *ids,
                                                    int64_t count);

/* Whether the contract leaves a term out of every vector. */
bool csp_contract_excludes(const csp_contract *contract, int32_t id);

/*
 * Checks ranges, that texts are UTF-8, and what belongs together (add_bos needs bos_id, append_eos
 * needs eos_id). where is for the text: a file name or "model settings". Errors: CSP_ERR_CONFIG
 * naming field and value.
 */
CSP_CHECKED csp_status csp_contract_check(const csp_contract *contract, const char *where);

/* The JSON above, indented, NUL-terminated. Owner: the caller frees *text. CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_contract_to_json(const csp_contract *contract, char **text);

/*
 * Reads the JSON above and checks it. where is for the text (a path, "checkpoint x.h5").
 *
 * Errors: CSP_ERR_FORMAT for what is not JSON, an unknown or missing key, a wrong type, an unknown
 *         version, a value out of range. *out is written only on success.
 */
CSP_CHECKED csp_status csp_contract_from_json(const char *text, const char *where,
                                              csp_contract *out);

/*
 * Whether two contracts are the same. If not, difference (size bytes, may be NULL with size 0) says
 * which field differs first, "query_prefix is \"query: \" and \"\"".
 */
bool csp_contract_equal(const csp_contract *a, const csp_contract *b, char *difference,
                        size_t size);

/* The half that applies to one side. The prefix is the contract's. */
const char *csp_contract_prefix(const csp_contract *contract, csp_side side);
int32_t csp_contract_max_len(const csp_contract *contract, csp_side side);

/*
 * Token rows of a text of so many ids, BOS and EOS included: count; in an echo, where a BOS stands
 * once, 2 count - b, b = 1 with BOS.
 */
int64_t csp_contract_text_rows(const csp_contract *contract, int64_t count);

/* Token rows of the longest text of one side, and of either. */
int64_t csp_contract_side_rows(const csp_contract *contract, csp_side side);
int64_t csp_contract_rows(const csp_contract *contract);
int32_t csp_contract_top_k(const csp_contract *contract, csp_side side);

/* "causal", "echo", "bi"; the reverse gives CSP_ERR_CONFIG with the three names. */
const char *csp_variant_name(csp_variant variant);
CSP_CHECKED csp_status csp_variant_parse(const char *name, csp_variant *out);
const char *csp_pooling_name(csp_pooling pooling);
CSP_CHECKED csp_status csp_pooling_parse(const char *name, csp_pooling *out);
