"""The C functions of a header: each recurrent layer, the preparation and the answers.

`NAME` stands for the name of the network. It is all C99 that is also C++. Four sums in `row` are
twice as fast as one, and more precise.
"""

ROW = """
typedef struct { const TYPE *weights; SCALES int columns; } NAME_matrix;

static inline float NAME_row(const NAME_matrix *m, int row, const float *x)
{
    const TYPE *w = m->weights + (long)row * m->columns;
    float a = 0, b = 0, c = 0, d = 0;
    int i = 0;
    for (; i + 4 <= m->columns; i += 4) {
        a += (float)w[i] * x[i];
        b += (float)w[i + 1] * x[i + 1];
        c += (float)w[i + 2] * x[i + 2];
        d += (float)w[i + 3] * x[i + 3];
    }
    for (; i < m->columns; i++) a += (float)w[i] * x[i];
    return SCALE((a + b) + (c + d));
}
"""
FLOAT_ROW = ROW.replace("TYPE", "float").replace("SCALES ", "").replace("SCALE", "")
INT8_ROW = (
    ROW.replace("TYPE", "signed char")
    .replace("SCALES", "const float *scales;")
    .replace("SCALE", "m->scales[row] * ")
)
SIGMOID = """
static inline float NAME_sigmoid(float v)
{
    return 1 / (1 + expf(-v));
}
"""
TANH = """
static inline float NAME_activation(float v)
{
    return tanhf(v);
}
"""
RELU = """
static inline float NAME_activation(float v)
{
    return v < 0 ? 0 : v;
}
"""
# w: from the inputs, u: from the units' last states, b: biases; next: memory for a state.
CELLS = {
    "RNN": """
static inline void NAME_layer(const NAME_matrix *w, const NAME_matrix *u, const float *b,
                              const float *x, float *h, float *next, int units)
{
    int i;
    for (i = 0; i < units; i++)
        next[i] = NAME_activation(NAME_row(w, i, x) + NAME_row(u, i, h) + b[i]);
    for (i = 0; i < units; i++) h[i] = next[i];
}
""",
    "GRU": """
static inline void NAME_layer(const NAME_matrix *w, const NAME_matrix *u, const float *b,
                              const float *x, float *h, float *next, int units)
{
    int i;
    for (i = 0; i < units; i++) {
        const int j = units + i, k = 2 * units + i;
        const float r = NAME_sigmoid(NAME_row(w, i, x) + NAME_row(u, i, h) + b[i]);
        const float z = NAME_sigmoid(NAME_row(w, j, x) + NAME_row(u, j, h) + b[j]);
        const float n = tanhf(NAME_row(w, k, x) + b[k]
                              + r * (NAME_row(u, k, h) + b[3 * units + i]));
        next[i] = (1 - z) * n + z * h[i];
    }
    for (i = 0; i < units; i++) h[i] = next[i];
}
""",
    "LSTM": """
static inline void NAME_layer(const NAME_matrix *w, const NAME_matrix *u, const float *b,
                              const float *x, float *h, float *c, float *next, int units)
{
    int i;
    for (i = 0; i < units; i++) {
        const int j = units + i, k = 2 * units + i, l = 3 * units + i;
        const float in = NAME_sigmoid(NAME_row(w, i, x) + NAME_row(u, i, h) + b[i]);
        const float keep = NAME_sigmoid(NAME_row(w, j, x) + NAME_row(u, j, h) + b[j]);
        const float g = tanhf(NAME_row(w, k, x) + NAME_row(u, k, h) + b[k]);
        const float out = NAME_sigmoid(NAME_row(w, l, x) + NAME_row(u, l, h) + b[l]);
        c[i] = keep * c[i] + in * g;
        next[i] = out * tanhf(c[i]);
    }
    for (i = 0; i < units; i++) h[i] = next[i];
}
""",
    "IndRNN": """
static inline void NAME_layer(const NAME_matrix *w, const float *u, const float *b,
                              const float *x, float *h, int units)
{
    int i;
    for (i = 0; i < units; i++) h[i] = NAME_activation(NAME_row(w, i, x) + b[i] + u[i] * h[i]);
}
""",
}
PLAIN = """
/* The inputs come prepared. */
static inline void NAME_prepare(const float *x, float *in)
{
    int i;
    for (i = 0; i < NAME_inputs; i++) in[i] = x[i];
}
"""
# Two subtractions: one float cannot hold the mean of a channel around a million.
PREPARE = """
/* The inputs as in training. */
static inline void NAME_prepare(const float *x, float *in)
{
    int i;
    for (i = 0; i < NAME_inputs; i++)
        in[i] = ((x[i] - NAME_mean[i]) - NAME_mean_rest[i]) / NAME_deviation[i];
}
"""
PREPARE_FILLED = """
/* The inputs as in training; a missing value (NaN) is filled. */
static inline void NAME_prepare(const float *x, float *in)
{
    int i;
    for (i = 0; i < NAME_inputs; i++) {
        in[i] = ((x[i] - NAME_mean[i]) - NAME_mean_rest[i]) / NAME_deviation[i];
        if (in[i] != in[i]) in[i] = NAME_fill[i];
    }
}
"""
NEEDS_NAN = """
#if defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "this network fills missing values (NaN): compile it without -ffast-math"
#endif
"""
ANSWERS = {
    "softmax": """
static inline void NAME_answers(float *y)
{
    float top = y[0], sum = 0;
    int i;
    for (i = 1; i < NAME_outputs; i++) if (y[i] > top) top = y[i];
    for (i = 0; i < NAME_outputs; i++) {
        y[i] = expf(y[i] - top);
        sum += y[i];
    }
    for (i = 0; i < NAME_outputs; i++) y[i] /= sum;
}
""",
    "sigmoid": """
static inline void NAME_answers(float *y)
{
    int i;
    for (i = 0; i < NAME_outputs; i++) y[i] = NAME_sigmoid(y[i]);
}
""",
    "numbers": """
static inline void NAME_answers(float *y)
{
    int i;
    for (i = 0; i < NAME_outputs; i++) y[i] += NAME_target_mean[i];
}
""",
}
STEP = """
/* One step: x has NAME_inputs raw numbers, y gets NAME_outputs. Returns 1. */
static inline int NAME_step(const float *x, NAME_state *state, float *y)
{
    float in[NAME_inputs];
    NAME_prepare(x, in);
    NAME_network(in, state, y);
    return 1;
}
"""
POOLED_STEP = """
/* One step: x has NAME_inputs raw numbers. The network takes the mean of WIDTH steps: one
   of WIDTH calls writes NAME_outputs numbers to y and returns 1, the others return 0. */
static inline int NAME_step(const float *x, NAME_state *state, float *y)
{
    float in[NAME_inputs];
    int i;
    NAME_prepare(x, in);
    for (i = 0; i < NAME_inputs; i++) state->group[i] += in[i];
    if (++state->waiting < WIDTH) return 0;
    for (i = 0; i < NAME_inputs; i++) {
        in[i] = state->group[i] / WIDTH;
        state->group[i] = 0;
    }
    state->waiting = 0;
    NAME_network(in, state, y);
    return 1;
}

/* The series is over: the answer with the mean of the steps that are left, 0 if there are none.
   Call NAME_reset before the next series. */
static inline int NAME_end(NAME_state *state, float *y)
{
    float in[NAME_inputs];
    int i;
    if (!state->waiting) return 0;
    for (i = 0; i < NAME_inputs; i++) in[i] = state->group[i] / (float)state->waiting;
    NAME_network(in, state, y);
    return 1;
}
"""
