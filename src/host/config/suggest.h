/*
 * suggest.h - "did you mean ...?": the known name nearest to a mistyped one.
 */
#pragma once

#include "core/status.h"

/* Collects candidates for one mistyped name: init, offer every known name, read best. */
typedef struct csp_suggest {
    const char *typed;
    const char *best; /* NULL if nothing is near enough; points to an offered name */
    int distance;     /* of best                                                   */
} csp_suggest;

void csp_suggest_init(csp_suggest *suggest, const char *typed);

/* name must stay valid as long as best is used. Equal distances: the first offered wins. */
void csp_suggest_offer(csp_suggest *suggest, const char *name);

/*
 * Edits (insert, delete, replace, swap of neighbours) that turn a into b; '-' and '_' are equal,
 * and so are small and capital letters. Names beyond 64 bytes count as far away (64).
 */
int csp_edit_distance(const char *a, const char *b);
