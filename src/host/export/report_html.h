/*
 * report_html.h - a self-contained HTML page: tables, line charts as inline SVG, explained vectors.
 *
 * No script, no font and no image is fetched from anywhere; colours follow the reader's light or
 * dark setting. All text is escaped.
 */
#pragma once

#include <stdio.h>

#include "core/status.h"

/* One line of a chart. NaN values are gaps. */
typedef struct csp_curve {
    const char *name;
    const double *x;
    const double *y;
    int64_t count;
} csp_curve;

/* A term of an explained vector. */
typedef struct csp_explained_term {
    const char *text; /* readable form; invalid UTF-8 is replaced */
    double weight;
    bool in_text; /* false: expansion, a term the text does not have */
} csp_explained_term;

void csp_html_begin(FILE *out, const char *title);
void csp_html_end(FILE *out);

/* Text with <, >, & and quotes escaped and bytes that are no UTF-8 replaced. */
void csp_html_text(FILE *out, const char *text);

void csp_html_heading(FILE *out, const char *text);
void csp_html_paragraph(FILE *out, const char *text);
void csp_html_preformatted(FILE *out, const char *text);

/* cells: rows x columns texts, row by row; row 0 is the head, column 0 flush left. */
void csp_html_table(FILE *out, const char *const *cells, int64_t rows, int64_t columns);

/*
 * A line chart; curves are thinned to about 400 points each by averaging neighbours.
 *
 *   log_y   in   logarithmic vertical axis where all values are positive
 */
void csp_html_chart(FILE *out, const char *title, const char *x_name, const csp_curve *curves,
                    int64_t count, bool log_y);

/* A text and the strongest terms of its vector; in-text ones differ by more than their colour. */
void csp_html_explained(FILE *out, const char *kind, const char *text,
                        const csp_explained_term *terms, int64_t count, int64_t all_terms);
