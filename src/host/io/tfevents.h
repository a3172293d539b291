/*
 * tfevents.h - scalars in a TensorBoard event file.
 *
 * Record: u64 length, u32 masked crc32c(length bytes), data, u32 masked crc32c(data), where
 * mask(c) = rotr(c, 15) + 0xa282ead8. Data is an Event protobuf: 1 double wall_time, 2 int64 step,
 * 3 string file_version ("brain.Event:2", first record), 5 Summary{1 Value{1 tag, 2 simple_value}}.
 */
#pragma once

#include "core/status.h"

typedef struct csp_tfevents csp_tfevents;

/* DIR/events.out.tfevents.<seconds>.<host>.<pid>.0, appended and flushed at each call. */
CSP_CHECKED csp_status csp_tfevents_create(const char *dir, csp_tfevents **out);
CSP_CHECKED csp_status csp_tfevents_scalar(csp_tfevents *events, int64_t step, const char *tag,
                                           double value);
CSP_CHECKED csp_status csp_tfevents_flush(csp_tfevents *events);
void csp_tfevents_close(csp_tfevents *events);
