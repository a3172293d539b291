/*
 * finite.h - looks for NaN and infinity in hidden states and parameters, to name what is broken.
 */
#pragma once

#include "model/transformer.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Checks what csp_model_fwd left in run->h.
 *
 *   row   out   (1) i64   the first row that holds a NaN or an infinity, -1 = all are finite
 *
 * Precision:  squares of a row that overflow float32 count as not finite.
 * Stream:     enqueued on the model's backend.
 */
CSP_CHECKED csp_status csp_run_note_bad_row(const csp_model *model, const csp_run *run,
                                            csp_tensor *row);

/* ", and so is model.norm.weight" for the first parameter that is not finite, else "". */
void csp_model_say_bad_parameter(const csp_model *model, char *text, size_t bytes);

#ifdef __cplusplus
}
#endif
