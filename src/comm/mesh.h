/* The device mesh: ranks arranged along named axes.
 *
 * The order of the axes is fixed, outermost first, as in the enum below; the last one varies
 * fastest with the rank. So the ranks of a tensor group are neighbours (one host, it is hoped), and
 * the stages of a pipeline, which exchange least, are farthest apart. Axes of size 1 take no part
 * in anything. With `mesh.tensor_kind` 2d, 2.5d or 3d the ranks of `tensor` are arranged along
 * tensor_depth, tensor_row and tensor_column instead, and the size of `tensor` itself is 1.
 *
 * Invariants (tr_mesh_verify)
 *   1. every size is at least 1
 *   2. the product of the sizes is the number of ranks
 *
 * A mesh is a plain value; a group owns its list of ranks.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

#define TR_MESH_AXES(X)               \
    X(PIPELINE, "pipeline")           \
    X(DATA, "data")                   \
    X(EXPERT, "expert")               \
    X(SEQUENCE, "sequence")           \
    X(TENSOR_DEPTH, "tensor_depth")   \
    X(TENSOR_ROW, "tensor_row")       \
    X(TENSOR_COLUMN, "tensor_column") \
    X(TENSOR, "tensor")

typedef enum tr_mesh_axis {
#define X(id, text) TR_MESH_##id,
    TR_MESH_AXES(X)
#undef X
    TR_MESH_AXIS_COUNT
} tr_mesh_axis;

/* A set of axes: the bit of axis a is 1 << a. */
typedef uint32_t tr_mesh_axes;
#define TR_MESH_BIT(axis) ((tr_mesh_axes)1 << (axis))
#define TR_MESH_ALL (TR_MESH_BIT(TR_MESH_AXIS_COUNT) - 1)

typedef struct tr_mesh {
    int32_t size[TR_MESH_AXIS_COUNT];
} tr_mesh;

/* Ranks that take part in something together, ascending; `me` is this rank's place among them. */
typedef struct tr_group {
    int32_t count, me;
    int32_t *ranks; /* [count], owned */
} tr_group;

const char *tr_mesh_axis_name(tr_mesh_axis axis);
bool tr_mesh_axis_parse(const char *name, tr_mesh_axis *out);

tr_mesh tr_mesh_one(void); /* every axis of size 1 */
int64_t tr_mesh_ranks(const tr_mesh *mesh);
/* TR_USER when the product is not `ranks`; says what the mesh is and which sizes would do. */
tr_error *tr_mesh_verify(const tr_mesh *mesh, int64_t ranks);

/* "data=2 tensor=2"; axes of size 1 are left out, and a mesh of one rank is "one rank". The caller
 * frees. tr_mesh_parse reads the same; axes in any order, each at most once. */
char *tr_mesh_text(const tr_mesh *mesh);
tr_error *tr_mesh_parse(const char *text, tr_mesh *out);

void tr_mesh_coordinates(const tr_mesh *mesh, int32_t rank, int32_t out[TR_MESH_AXIS_COUNT]);
int32_t tr_mesh_rank(const tr_mesh *mesh, const int32_t coordinates[TR_MESH_AXIS_COUNT]);
/* The ranks that differ from `rank` in the coordinates of `axes` only. An empty set gives `rank`
 * alone. */
tr_group tr_mesh_group(const tr_mesh *mesh, int32_t rank, tr_mesh_axes axes);
/* The rank `step` places further along the axis, around the end when `wrap`; -1 when there is none.
 */
int32_t tr_mesh_neighbour(const tr_mesh *mesh, int32_t rank, tr_mesh_axis axis, int32_t step,
                          bool wrap);

/* A copy of a list that must be ascending and contain `rank` (TR_CHECK). */
tr_group tr_group_new(const int32_t *ranks, int32_t count, int32_t rank);
tr_group tr_group_world(int32_t ranks, int32_t rank);
void tr_group_free(tr_group *group);
