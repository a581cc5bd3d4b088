/* Choices; see choice.h. */
#include "serve/choice.h"

#include <math.h>

int64_t tr_choice(const tr_program *p, int64_t row, double *out_probability)
{
    const tr_shape *shape = tr_shape_at(p->graph, tr_graph_find(p->graph, "logits"));
    const void *logits = tr_program_find(p, "logits");
    int64_t n = shape->dims[shape->rank - 1], best = 0;
    double sum = 0, top = -INFINITY;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < n; i++) {
            int64_t at = row * n + i;
            double x = tr_real_at(logits, shape->dtype, at);
            if (pass)
                sum += exp(x - top);
            else if (x > top) {
                top = x;
                best = i;
            }
        }
    *out_probability = 1 / sum;
    return best;
}
