/*
 * tokenizer.h - text to token ids and back, exactly as Hugging Face tokenizers does it from the
 * same tokenizer.json, and training of new byte-level BPE vocabularies.
 *
 * Read: models of type BPE, byte-level (GPT-2, Llama 3, Qwen) and SentencePiece-type (Llama 2,
 * Mistral; byte_fallback), with merges as "a b" strings or as pairs;
 *   normalizers     Sequence NFC NFD NFKC NFKD Lowercase Prepend Replace Strip
 *   pre-tokenizers  Sequence Split ByteLevel (last) Metaspace Digits Whitespace WhitespaceSplit
 *   post-processors Sequence TemplateProcessing ByteLevel
 *   decoders        Sequence ByteLevel Metaspace Replace ByteFallback Fuse Strip
 * and added tokens with all their flags. Whatever else a file holds is refused by name.
 *
 * Characters have the classes and cases of Unicode 14 (PCRE2, utf8proc); Hugging Face knows newer
 * versions, so text in characters assigned since 2021 may be cut differently.
 */
#pragma once

#include "core/status.h"

typedef struct csp_tokenizer csp_tokenizer;

/* Token ids of one text. Start from { 0 }; one list serves any number of calls. */
typedef struct csp_token_list {
    int32_t *ids;
    int64_t count;
    int64_t room; /* ids there is memory for */
} csp_token_list;

/* Frees the memory and leaves an empty list. */
void csp_token_list_clear(csp_token_list *list);

/*
 * Reads a tokenizer.json, the same compressed with gzip, or the tokenizer.json in a folder.
 *
 * Errors: CSP_ERR_IO; CSP_ERR_FORMAT (damaged or contradictory, with the place in the file);
 * CSP_ERR_UNSUPPORTED (well-formed, with the name of what csplade does not do).
 */
CSP_CHECKED csp_status csp_tokenizer_open(const char *path, csp_tokenizer **out);

/* The same from memory; name stands for the path in messages. Errors as csp_tokenizer_open. */
CSP_CHECKED csp_status csp_tokenizer_from_text(const char *json, int64_t bytes, const char *name,
                                               csp_tokenizer **out);

/* NULL is fine. No other thread may still use it. */
void csp_tokenizer_close(csp_tokenizer *tokenizer);

/* The largest id + 1, added tokens included; ids below it may have no token. */
int64_t csp_tokenizer_vocab_size(const csp_tokenizer *tokenizer);

/*
 * The ids of a text.
 *
 *   text     in   bytes of UTF-8
 *   special  in   whether the file's post-processor applies (its BOS, EOS)
 *   out      out  overwritten; empty after an error
 *
 * Thread-safe: any number of threads may encode with one tokenizer, each into its own list.
 * Errors: CSP_ERR_DATA (invalid UTF-8, with the offset; a text above 1 GiB; a character for which
 *         the file has no token and names an unknown token it does not hold), CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_tokenizer_encode(const csp_tokenizer *tokenizer, const char *text,
                                            int64_t bytes, bool special, csp_token_list *out);

/*
 * The text of some ids, special tokens included; ids without a token give nothing.
 *
 * Owner: the caller frees *text, which is NUL-terminated and may hold NUL bytes before *bytes.
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_tokenizer_decode(const csp_tokenizer *tokenizer, const int32_t *ids,
                                            int64_t count, char **text, int64_t *bytes);

/* The token as it is written in the file ("Ġthe"), NULL if id has none. Owner: the tokenizer. */
const char *csp_tokenizer_token(const csp_tokenizer *tokenizer, int64_t id);

/* The id of a token as it is written in the file, -1 if there is none. */
int32_t csp_tokenizer_id(const csp_tokenizer *tokenizer, const char *token);

/* Whether id is an added token marked special. */
bool csp_tokenizer_is_special(const csp_tokenizer *tokenizer, int64_t id);

/* The tokenizer.json it was read or trained from, byte for byte. Owner: the tokenizer. */
const char *csp_tokenizer_source(const csp_tokenizer *tokenizer, int64_t *bytes);

/* Writes csp_tokenizer_source to path, atomically. Errors: CSP_ERR_IO. */
CSP_CHECKED csp_status csp_tokenizer_save(const csp_tokenizer *tokenizer, const char *path);

/* What csp_tokenizer_train makes. */
typedef struct csp_tokenizer_train_options {
    int64_t vocab_size;    /* all ids: 256 bytes, merges, and the two special tokens at the end  */
    int64_t min_frequency; /* a pair seen less often is not merged; at least 1                   */
    bool lowercase;        /* the file gets the Lowercase normalizer                             */
    bool add_bos;          /* the file's post-processor puts <|begin_of_text|> in front          */
} csp_tokenizer_train_options;

/*
 * Gives the texts to train on, one a call: *text is NULL at the end, else valid until the next
 * call. A failure stops the training and is passed on.
 */
typedef csp_status (*csp_text_source)(void *context, const char **text, int64_t *bytes);

/*
 * Trains a byte-level BPE tokenizer in the form of Llama 3's file: the same split pattern (digits
 * in threes), the 256 byte symbols as ids 0..255, merges, then <|begin_of_text|> and
 * <|end_of_text|>.
 *
 * Each step merges the most frequent pair, ties by the smaller pair of ids: the same texts in any
 * order give the same bytes. Fewer ids result if the texts run out of pairs.
 *
 * Errors: CSP_ERR_ARGUMENT (options out of range), CSP_ERR_DATA (invalid UTF-8, with the number of
 *         the text, from 1), CSP_ERR_MEMORY, what next returns.
 */
CSP_CHECKED csp_status csp_tokenizer_train(const csp_tokenizer_train_options *options,
                                           csp_text_source next, void *context,
                                           csp_tokenizer **out);
