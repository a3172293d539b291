/*
 * train_data.h - the texts of each optimizer step, tokenised: what was drawn depends on (seed,
 * step) alone, so a resumed run asks for step k and gets what the first run got.
 */
#pragma once

#include "comm/comm.h"
#include "config/config.h"
#include "data/text_encoder.h"
#include "data/text_store.h"
#include "data/token_lists.h"
#include "train/contrastive.h"
#include "train/data_identity.h"

typedef struct csp_train_data csp_train_data;

/*
 * Opens what the phases of the config need. contract and tokenizer must outlive it.
 *
 *   rank, ranks   in   of a step this rank gets its share: as many texts as each, and about as long
 *   machine       in   the ranks that share what its rank 0 reads (data/image.h), each of which
 *                      calls this; NULL or one rank: this process reads for itself
 *
 * Errors: those of csp_pairs_open and csp_plain_open, where this rank reads; CSP_ERR_COMM. Where
 *         data.strict, CSP_ERR_DATA for an over-long text among this rank's share of all.
 */
CSP_CHECKED csp_status csp_train_data_open(const csp_config *config, const csp_contract *contract,
                                           const csp_tokenizer *tokenizer, int rank, int ranks,
                                           csp_comm *machine, csp_train_data **out);
void csp_train_data_close(csp_train_data *data);

/*
 * From here on a thread makes steps first .. end-1 of a phase ready ahead, data.prefetch_factor of
 * them, where that is not 0: they are then asked for one after the other, beginning with first.
 * Texts, their order and what csp_train_data_say counts are the same with and without it.
 * csp_train_data_end, before the data is used otherwise, ends the thread.
 *
 * Errors: CSP_ERR_MEMORY.
 */
CSP_CHECKED csp_status csp_train_data_begin(csp_train_data *data, const char *phase, int64_t first,
                                            int64_t end);
void csp_train_data_end(csp_train_data *data);

/*
 * This rank's part of contrastive step k = 0, 1, ... Lists, positives and mask are valid until the
 * next call. On one rank query i's documents are passages i·G .. i·G+G-1, its positive first.
 *
 * Blocks of negatives have as many of the step's queries each and, with their documents, are about
 * as long. Each is shared out among a group of consecutive ranks, or a rank has several. What the
 * texts of a step are, and their numbers in it, does not depend on blocks.
 *
 * Errors: those of reading and encoding this step (csp_step_texts_load).
 */
CSP_CHECKED csp_status csp_train_data_pairs(csp_train_data *data, int64_t k,
                                            csp_contrastive_texts *out);

/* This rank's texts of adaptation step k and their numbers in it; valid until the next call. */
CSP_CHECKED csp_status csp_train_data_plain(csp_train_data *data, int64_t k,
                                            const csp_token_lists **out, const int64_t **text);

/*
 * The texts of data.corpus as the contrastive phase has read them; NULL where there is none, or
 * training lines hold the passages. Valid until data is closed; not read while a thread may.
 */
const csp_text_store *csp_train_data_corpus(const csp_train_data *data);

/* What the data is, digested as it was read when it was opened. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_train_data_identity(const csp_train_data *data, csp_data_identity *out);

/* What was empty or cut in a phase's steps handed out so far, a line each, through core/log.h. */
void csp_train_data_say(const csp_train_data *data, const char *phase);
