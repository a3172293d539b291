/*
 * snapshot.h - a model inside an HDF5 checkpoint: weights or adapters, config, contract, tokenizer.
 *
 * What encode and search need is here; what training alone needs (moments, step, settings) is
 * written beside it by train/checkpoint.
 *
 *     /                    format = "csplade-checkpoint", format_version, model_type
 *     / config_json        the model's config.json
 *     / contract_json      the text contract (io/contract.h)
 *     / tokenizer          (bytes) u8: tokenizer.json, byte for byte
 *     /model/<hf name>     every parameter, f32                    full fine-tuning
 *     /lora/<peft name>    adapters, f32                           LoRA
 *     / base_path, base_hash, base_in_run, lora_r, lora_alpha, lora_dropout, lora_rslora,
 *       lora_targets                                                   LoRA
 *
 * base_path is a Hugging Face folder, or a checkpoint of full fine-tuning. With base_in_run = 1 it
 * is relative to the run's folder, the one above the checkpoint's own; else as the config says.
 * base_hash is xxh3-128 over the base's values in table order: another base is refused.
 * Weights that were trained in bf16 are their f32 masters, which a reader rounds as it needs; where
 * ranks share masters out they are the bf16 weights.
 */
#pragma once

#include "io/contract.h"
#include "io/digest.h"
#include "io/hdf5.h"
#include "model/transformer.h"

enum { CSP_CHECKPOINT_VERSION = 1, CSP_HASH_TEXT_BYTES = CSP_DIGEST_TEXT_BYTES };

typedef struct csp_snapshot {
    const csp_model *model;
    const csp_contract *contract;
    const char *tokenizer; /* tokenizer.json                          */
    int64_t tokenizer_bytes;
    const char *base_path; /* of LoRA: where the frozen weights are    */
    bool base_in_run;      /* base_path is relative to the run's folder */
    const char *base_hash; /* of LoRA: csp_snapshot_hash of the base   */
    const csp_tensor
        *host; /* (rows of the table) copies of the values to be written, f32 or bf16 in
                               host memory; NULL: they are downloaded, one after the other */
} csp_snapshot;

/*
 * xxh3-128 over names and values in table order, 32 hexadecimal digits and a NUL. Reads every
 * weight.
 *
 * Of bf16 weights without masters it is that of the rounded values; base_hash is of the values as
 * their file has them (csp_weights_load), so that it does not depend on the storage.
 *
 *   adapters   in   false: of the base alone, which is what a LoRA checkpoint stores
 */
CSP_CHECKED csp_status csp_snapshot_hash(const csp_model *model, bool adapters,
                                         char text[CSP_HASH_TEXT_BYTES]);

/* Writes the parts above into a file being written. */
CSP_CHECKED csp_status csp_snapshot_write(csp_hdf5 *file, const csp_snapshot *snapshot);

/* What a reader gets. All owned by the caller: csp_opened_clear. */
typedef struct csp_opened {
    csp_model *model;
    csp_contract contract;
    char *tokenizer; /* tokenizer.json, NUL-terminated */
    int64_t tokenizer_bytes;
    char *base_path;  /* as stored, or the base of the options; "" unless LoRA */
    char *base_found; /* where that is from here; "" unless LoRA               */
    bool base_in_run;
    char base_hash[CSP_HASH_TEXT_BYTES];
} csp_opened;

typedef struct csp_open_options {
    csp_train_mode train; /* NONE to encode; else what the checkpoint was trained as           */
    csp_storage storage;  /* type of weights and activations                                   */
    const char *base;     /* where the base of a LoRA checkpoint is now; NULL: as it says      */
    int64_t max_len;      /* rows of the longest text; 0 = what the contract asks for          */
    const csp_lora *lora; /* with CSP_TRAIN_LORA, else NULL: what is to be trained. A checkpoint
                             without adapters gets new ones; those of another one must agree in
                             all but the dropout, which is taken from here                     */
    uint64_t seed;        /* of new adapters                                                   */
    const csp_hdf5
        *file;         /* the checkpoint at the path, where the caller has it open, else NULL    */
    csp_comm *machine; /* the ranks for which its rank 0 reads all weights: the others open what
                             describes them only; NULL: this process reads for itself          */
} csp_open_options;

/*
 * Opens PATH for encoding or to go on training: a checkpoint (.h5), or a Hugging Face folder with
 * tokenizer.json and, where csplade wrote it, csplade.json (else the standard contract).
 *
 * Errors: CSP_ERR_IO, CSP_ERR_FORMAT (a format_version this program does not know is named; so is a
 *         base whose hash differs), CSP_ERR_CONFIG (train, lora or base do not fit what is there),
 *         and those of csp_model_create.
 */
CSP_CHECKED csp_status csp_snapshot_open(csp_backend *be, const char *path,
                                         const csp_open_options *options, csp_opened *out);
void csp_opened_clear(csp_opened *opened);

/* The text contract of the same, without its weights. Owner: csp_contract_clear. */
CSP_CHECKED csp_status csp_snapshot_contract(const char *path, csp_contract *out);
