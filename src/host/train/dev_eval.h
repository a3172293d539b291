/*
 * dev_eval.h - the evaluation every run.eval_steps: encode a pool of documents and the dev queries
 * with the model as it is, search, measure.
 */
#pragma once

#include "config/config.h"
#include "data/text_store.h"
#include "eval/encode.h"
#include "io/digest.h"
#include "train/ranks.h"

enum { CSP_DEV_VALUES = 6 };

/*
 * "nDCG@10", "RR@10", "R@100", "AP", "active_q", "active_d": in the order of csp_dev_run's values.
 */
extern const char *const csp_dev_names[CSP_DEV_VALUES];

typedef struct csp_dev csp_dev;

/*
 * Reads dev queries and judgements into memory and chooses the pool: all judged documents, and a
 * fixed sample of the corpus up to eval.pool (0 = the whole corpus). Of the corpus memory holds ids
 * and places; texts are read again at every evaluation (a gzip file's are kept). *out is NULL where
 * the config names no data.dev_qrels.
 *
 *   corpus    in   the texts of data.corpus where they have been read already, which must outlive
 *                  it; NULL: they are read here
 *   machine   in   as of csp_train_data_open
 *
 * Errors: CSP_ERR_DATA (no dev query has a judged document in the corpus), and those of the
 * readers; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_dev_open(const csp_config *config, const csp_text_store *corpus,
                                    csp_comm *machine, csp_dev **out);
void csp_dev_close(csp_dev *dev);

/* Of what is evaluated: the same on ranks that evaluate together. Errors: CSP_ERR_MEMORY. */
CSP_CHECKED csp_status csp_dev_digest(const csp_dev *dev, char text[CSP_DIGEST_TEXT_BYTES]);

/* Queries and documents of an evaluation. */
int64_t csp_dev_queries(const csp_dev *dev);
int64_t csp_dev_documents(const csp_dev *dev);

/*
 * Values in the order of csp_dev_names.
 *
 *   ranks   in   NULL: one. All of them call this with the same dev, model and contract, and each
 *                encodes and searches a part of the documents, and holds the index of it alone
 *
 * Precision: the same values on any number of ranks to the last bit, where each computes with as
 *            many threads on the same type of device. Who encodes a text is all that changes.
 * Errors:    also CSP_ERR_DATA if the corpus changed since; CSP_ERR_COMM.
 */
CSP_CHECKED csp_status csp_dev_run(csp_dev *dev, const csp_ranks *ranks, csp_backend *be,
                                   const csp_model *model, const csp_contract *contract,
                                   const csp_tokenizer *tokenizer, double values[CSP_DEV_VALUES]);
