/* The device mesh; see mesh.h. */
#include "comm/mesh.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/suggest.h"

static const char *const names[TR_MESH_AXIS_COUNT] = {
#define X(id, text) [TR_MESH_##id] = text,
    TR_MESH_AXES(X)
#undef X
};

const char *tr_mesh_axis_name(tr_mesh_axis axis)
{
    return names[axis];
}

bool tr_mesh_axis_parse(const char *name, tr_mesh_axis *out)
{
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
        if (strcmp(name, names[a]) == 0) {
            *out = (tr_mesh_axis)a;
            return true;
        }
    return false;
}

tr_mesh tr_mesh_one(void)
{
    tr_mesh mesh;
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
        mesh.size[a] = 1;
    return mesh;
}

int64_t tr_mesh_ranks(const tr_mesh *mesh)
{
    int64_t product = 1;
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
        if (!tr_mul_fits(product, mesh->size[a], &product))
            return INT64_MAX;
    return product;
}

tr_error *tr_mesh_verify(const tr_mesh *mesh, int64_t ranks)
{
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
        if (mesh->size[a] < 1)
            return tr_error_new(TR_USER, "mesh.%s is %d: a mesh axis has at least 1 rank", names[a],
                                mesh->size[a]);
    int64_t product = tr_mesh_ranks(mesh);
    if (product > INT32_MAX)
        return tr_error_new(TR_USER, "the mesh has more than %d ranks: make its axes smaller",
                            INT32_MAX);
    if (product == ranks)
        return NULL;
    char *text = tr_mesh_text(mesh);
    int64_t others = product / mesh->size[TR_MESH_DATA];
    tr_error *error;
    if (ranks > 0 && ranks % others == 0)
        error =
            tr_error_new(TR_USER,
                         "the mesh (%s) has %lld ranks but %lld were started: set mesh.data=%lld, "
                         "or start %lld",
                         text, (long long)product, (long long)ranks, (long long)(ranks / others),
                         (long long)product);
    else
        error = tr_error_new(TR_USER,
                             "the mesh (%s) has %lld ranks but %lld were started: start %lld, or "
                             "choose axes whose product is %lld",
                             text, (long long)product, (long long)ranks, (long long)product,
                             (long long)ranks);
    free(text);
    return error;
}

char *tr_mesh_text(const tr_mesh *mesh)
{
    tr_text text = {0};
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
        if (mesh->size[a] != 1)
            tr_text_format(&text, "%s%s=%d", text.length ? " " : "", names[a], mesh->size[a]);
    if (!text.length)
        tr_text_format(&text, "one rank");
    return text.bytes;
}

tr_error *tr_mesh_parse(const char *text, tr_mesh *out)
{
    *out = tr_mesh_one();
    if (strcmp(text, "one rank") == 0)
        return NULL;
    tr_mesh_axes seen = 0;
    tr_error *error = NULL;
    for (const char *at = text + strspn(text, " "); *at; at += strspn(at, " ")) {
        size_t length = strcspn(at, " ");
        char *word = tr_strndup(at, length), *equals = strchr(word, '=');
        tr_mesh_axis axis = TR_MESH_AXIS_COUNT;
        if (!equals) {
            error =
                tr_error_new(TR_USER, "mesh '%s': '%s' is not of the form axis=size", text, word);
        } else {
            *equals = 0;
            char *end;
            errno = 0;
            long size = strtol(equals + 1, &end, 10);
            if (!tr_mesh_axis_parse(word, &axis)) {
                const char *near = tr_suggest(word, names, TR_MESH_AXIS_COUNT);
                error = tr_error_new(TR_USER, "mesh '%s': there is no axis '%s'%s%s%s", text, word,
                                     near ? "; did you mean '" : "", near ? near : "",
                                     near ? "'?" : "");
            } else if (seen & TR_MESH_BIT(axis)) {
                error = tr_error_new(TR_USER, "mesh '%s': '%s' is given twice", text, word);
            } else if (end == equals + 1 || *end || errno || size < 1 || size > INT32_MAX) {
                error = tr_error_new(
                    TR_USER, "mesh '%s': the size of '%s' is not a whole number of 1 or more", text,
                    word);
            } else {
                seen |= TR_MESH_BIT(axis);
                out->size[axis] = (int32_t)size;
            }
        }
        free(word);
        if (error)
            return error;
        at += length;
    }
    if (tr_mesh_ranks(out) > INT32_MAX)
        return tr_error_new(TR_USER, "mesh '%s': more than %d ranks", text, INT32_MAX);
    return NULL;
}

void tr_mesh_coordinates(const tr_mesh *mesh, int32_t rank, int32_t out[TR_MESH_AXIS_COUNT])
{
    TR_CHECK(rank >= 0 && rank < tr_mesh_ranks(mesh), "rank %d is not on the mesh", rank);
    for (int a = TR_MESH_AXIS_COUNT; a-- > 0;) {
        out[a] = rank % mesh->size[a];
        rank /= mesh->size[a];
    }
}

int32_t tr_mesh_rank(const tr_mesh *mesh, const int32_t coordinates[TR_MESH_AXIS_COUNT])
{
    int32_t rank = 0;
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++) {
        TR_CHECK(coordinates[a] >= 0 && coordinates[a] < mesh->size[a], "coordinate %d of axis %s",
                 coordinates[a], names[a]);
        rank = rank * mesh->size[a] + coordinates[a];
    }
    return rank;
}

tr_group tr_mesh_group(const tr_mesh *mesh, int32_t rank, tr_mesh_axes axes)
{
    int32_t at[TR_MESH_AXIS_COUNT], count = 1;
    tr_mesh_coordinates(mesh, rank, at);
    for (int a = 0; a < TR_MESH_AXIS_COUNT; a++)
        if (axes & TR_MESH_BIT(a)) {
            at[a] = 0;
            count *= mesh->size[a];
        }
    tr_group group = {count, -1, tr_alloc((size_t)count * sizeof(int32_t))};
    for (int32_t i = 0; i < count; i++) {
        /* Counting with the innermost axis fastest visits the ranks in ascending order. */
        group.ranks[i] = tr_mesh_rank(mesh, at);
        if (group.ranks[i] == rank)
            group.me = i;
        for (int a = TR_MESH_AXIS_COUNT; a-- > 0;)
            if (axes & TR_MESH_BIT(a)) {
                if (++at[a] < mesh->size[a])
                    break;
                at[a] = 0;
            }
    }
    return group;
}

int32_t tr_mesh_neighbour(const tr_mesh *mesh, int32_t rank, tr_mesh_axis axis, int32_t step,
                          bool wrap)
{
    int32_t at[TR_MESH_AXIS_COUNT], size = mesh->size[axis];
    tr_mesh_coordinates(mesh, rank, at);
    int64_t to = (int64_t)at[axis] + step;
    if (wrap)
        to = (to % size + size) % size;
    if (to < 0 || to >= size)
        return -1;
    at[axis] = (int32_t)to;
    return tr_mesh_rank(mesh, at);
}

tr_group tr_group_new(const int32_t *ranks, int32_t count, int32_t rank)
{
    TR_CHECK(count > 0, "an empty group");
    tr_group group = {count, -1, tr_alloc((size_t)count * sizeof *ranks)};
    for (int32_t i = 0; i < count; i++) {
        TR_CHECK(i == 0 ? ranks[0] >= 0 : ranks[i] > ranks[i - 1], "ranks of a group must ascend");
        group.ranks[i] = ranks[i];
        if (ranks[i] == rank)
            group.me = i;
    }
    TR_CHECK(group.me >= 0, "rank %d is not in the group", rank);
    return group;
}

tr_group tr_group_world(int32_t ranks, int32_t rank)
{
    tr_group group = {ranks, rank, tr_alloc((size_t)ranks * sizeof(int32_t))};
    for (int32_t i = 0; i < ranks; i++)
        group.ranks[i] = i;
    return group;
}

void tr_group_free(tr_group *group)
{
    free(group->ranks);
    *group = (tr_group){0};
}
