/*
 * tokenizer_save.c - writes the tokenizer.json of a trained tokenizer: Llama 3's form, one token
 * and one merge a line, merges as "a b" strings, which every version of Hugging Face tokenizers
 * reads.
 */
#include <stdio.h>
#include <string.h>

#include "data/tokenizer_internal.h"

static const char begin_token[] = "<|begin_of_text|>";
static const char end_token[] = "<|end_of_text|>";

static const char split_pattern[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}"
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+";

static csp_status put(csp_text_buffer *out, const char *text)
{
    return csp_text_buffer_add(out, text, (int64_t)strlen(text));
}

static csp_status put_number(csp_text_buffer *out, int64_t number)
{
    char text[24];

    (void)snprintf(text, sizeof(text), "%lld", (long long)number);
    return put(out, text);
}

/* A token's bytes as printable characters, escaped for JSON. */
static csp_status put_token(csp_text_buffer *out, const csp_string_table *tokens, int64_t id)
{
    const csp_string_entry *entry = &tokens->entries[id];

    for (int32_t i = 0; i < entry->length; i++) {
        const char byte = tokens->text.bytes[entry->at + i];

        if (byte == '"' || byte == '\\') {
            CSP_TRY(csp_text_buffer_add(out, "\\", 1));
        }
        CSP_TRY(csp_text_buffer_add_char(out, csp_byte_to_char((unsigned char)byte)));
    }
    return CSP_OK;
}

static csp_status put_added(csp_text_buffer *out, int64_t id, const char *content, bool last)
{
    CSP_TRY(put(out, "    {\"id\": "));
    CSP_TRY(put_number(out, id));
    CSP_TRY(put(out, ", \"content\": \""));
    CSP_TRY(put(out, content));
    CSP_TRY(put(out, "\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
                     "\"normalized\": false, \"special\": true}"));
    return put(out, last ? "\n" : ",\n");
}

static csp_status put_stages(csp_text_buffer *out, const csp_tokenizer_train_options *options,
                             int64_t begin_id)
{
    CSP_TRY(put(out, "  \"normalizer\": "));
    CSP_TRY(put(out, options->lowercase ? "{\"type\": \"Lowercase\"}" : "null"));
    CSP_TRY(put(out, ",\n  \"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [\n"
                     "    {\"type\": \"Split\", \"pattern\": {\"Regex\": \""));
    CSP_TRY(put(out, split_pattern));
    CSP_TRY(put(out, "\"}, \"behavior\": \"Isolated\", \"invert\": false},\n"
                     "    {\"type\": \"ByteLevel\", \"add_prefix_space\": false, "
                     "\"trim_offsets\": true, \"use_regex\": false}\n  ]},\n"
                     "  \"post_processor\": {\"type\": \"Sequence\", \"processors\": [\n"
                     "    {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                     "\"trim_offsets\": false, \"use_regex\": true}"));
    if (options->add_bos) {
        CSP_TRY(put(out, ",\n    {\"type\": \"TemplateProcessing\",\n"
                         "     \"single\": [{\"SpecialToken\": {\"id\": \"<|begin_of_text|>\", "
                         "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}],\n"
                         "     \"pair\": [{\"SpecialToken\": {\"id\": \"<|begin_of_text|>\", "
                         "\"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}, "
                         "{\"SpecialToken\": {\"id\": \"<|begin_of_text|>\", \"type_id\": 1}}, "
                         "{\"Sequence\": {\"id\": \"B\", \"type_id\": 1}}],\n"
                         "     \"special_tokens\": {\"<|begin_of_text|>\": {\"id\": "
                         "\"<|begin_of_text|>\", \"ids\": ["));
        CSP_TRY(put_number(out, begin_id));
        CSP_TRY(put(out, "], \"tokens\": [\"<|begin_of_text|>\"]}}}"));
    }
    return put(out, "\n  ]},\n"
                    "  \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, "
                    "\"trim_offsets\": true, \"use_regex\": true},\n");
}

static csp_status put_model(csp_text_buffer *out, const csp_trained *trained)
{
    const csp_string_table *tokens = &trained->tokens;

    CSP_TRY(put(out, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n"
                     "    \"unk_token\": null,\n    \"continuing_subword_prefix\": null,\n"
                     "    \"end_of_word_suffix\": null,\n    \"fuse_unk\": false,\n"
                     "    \"byte_fallback\": false,\n    \"ignore_merges\": false,\n"
                     "    \"vocab\": {\n"));
    for (int64_t i = 0; i < tokens->count; i++) {
        CSP_TRY(put(out, "      \""));
        CSP_TRY(put_token(out, tokens, i));
        CSP_TRY(put(out, "\": "));
        CSP_TRY(put_number(out, i));
        CSP_TRY(put(out, i + 1 < tokens->count ? ",\n" : "\n"));
    }
    CSP_TRY(put(out, "    },\n    \"merges\": [\n"));
    for (int64_t i = 0; i < trained->merge_count; i++) {
        CSP_TRY(put(out, "      \""));
        CSP_TRY(put_token(out, tokens, trained->merges[i].left));
        CSP_TRY(put(out, " "));
        CSP_TRY(put_token(out, tokens, trained->merges[i].right));
        CSP_TRY(put(out, i + 1 < trained->merge_count ? "\",\n" : "\"\n"));
    }
    return put(out, "    ]\n  }\n}\n");
}

csp_status csp_write_trained(const csp_tokenizer_train_options *options, const csp_trained *trained,
                             csp_text_buffer *out)
{
    const int64_t begin_id = trained->tokens.count;

    CSP_TRY(put(out, "{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n"
                     "  \"added_tokens\": [\n"));
    CSP_TRY(put_added(out, begin_id, begin_token, false));
    CSP_TRY(put_added(out, begin_id + 1, end_token, true));
    CSP_TRY(put(out, "  ],\n"));
    CSP_TRY(put_stages(out, options, begin_id));
    return put_model(out, trained);
}
