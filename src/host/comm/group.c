/* group.c - some ranks of a communicator as one of their own. */
#include <stdlib.h>
#include <string.h>

#include "comm/state.h"
#include "core/memory.h"

void csp_group_free(csp_comm *group)
{
    if (group != NULL) {
        free(group->member);
        free(group->send);
        free(group->recv);
        free(group);
    }
}

/* The group of these ranks that there is already; NULL if there is none. */
static csp_comm *find(csp_comm *whole, const int *member, int size)
{
    csp_comm *group;

    pthread_mutex_lock(&whole->lock);
    group = whole->groups;
    while (group != NULL && (group->size != size ||
                             memcmp(group->member, member, (size_t)size * sizeof(*member)) != 0)) {
        group = group->next_group;
    }
    pthread_mutex_unlock(&whole->lock);
    return group;
}

/*
 * The group of these ranks of whole. Owner: member becomes the group's, or is freed.
 */
static csp_status make(csp_comm *whole, int *member, int size, csp_comm **out)
{
    csp_comm *group = find(whole, member, size);
    csp_status status;

    if (group != NULL) {
        free(member);
        *out = group;
        return CSP_OK;
    }
    CSP_TRY_GOTO(csp_alloc_zero("group of ranks", 1, sizeof(*group), &group));
    CSP_TRY_GOTO(csp_alloc_zero("group of ranks", size, sizeof(csp_piece), &group->send));
    CSP_TRY_GOTO(csp_alloc_zero("group of ranks", size, sizeof(csp_piece), &group->recv));
    group->whole = whole;
    group->member = member;
    group->size = size;
    while (member[group->rank] != whole->rank) {
        group->rank++;
    }
    pthread_mutex_lock(&whole->lock);
    group->next_group = whole->groups;
    whole->groups = group;
    pthread_mutex_unlock(&whole->lock);
    *out = group;
    return CSP_OK;

fail:
    csp_group_free(group);
    free(member);
    return status;
}

static int rank_in_whole(const csp_comm *comm, int rank)
{
    return comm->member != NULL ? comm->member[rank] : rank;
}

csp_status csp_comm_group(csp_comm *comm, int first, int count, csp_comm **out)
{
    int *member = NULL;

    if (first < 0 || count < 1 || count > comm->size - first || comm->rank < first ||
        comm->rank >= first + count) {
        return CSP_FAIL(CSP_ERR_ARGUMENT,
                        "a group of %d ranks from rank %d on: not some of %d with rank %d among "
                        "them",
                        count, first, comm->size, comm->rank);
    }
    CSP_TRY(csp_alloc("group of ranks", count, sizeof(*member), &member));
    for (int r = 0; r < count; r++) {
        member[r] = rank_in_whole(comm, first + r);
    }
    return make(comm->whole, member, count, out);
}

csp_status csp_comm_group_local(csp_comm *comm, csp_comm **out)
{
    const csp_rank_card *cards = comm->whole->cards;
    int *member = NULL, count = 0;

    if (comm->size == 1) {
        return csp_comm_group(comm, 0, 1, out);
    }
    CSP_TRY(csp_alloc("group of ranks", comm->size, sizeof(*member), &member));
    for (int r = 0; r < comm->size; r++) {
        const int rank = rank_in_whole(comm, r);

        if (strcmp(cards[rank].machine, cards[comm->whole->rank].machine) == 0) {
            member[count++] = rank;
        }
    }
    return make(comm->whole, member, count, out);
}
