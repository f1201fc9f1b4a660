/* The operators of the domain `aps` for ONNX Runtime on the CPU: this library is what
 * SessionOptions.register_custom_ops_library takes. Operators without a kernel here (other criteria, float selection, half
 * precision) run as the standard operators in the file. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "onnxruntime_abi.h"
#include "polyphase.h"

/* An operator and what it does; the first member is what ONNX Runtime sees. */
typedef struct {
    ort_operator base;
    char name[40];
    enum aps_criterion criterion;
    int64_t stride;
    int is_blurred;   /* takes K (C, 1, f, f) behind X (N, C, H, W) */
    int chooses;      /* gives I (N) as its last output; else takes it as its last input */
    int takes;        /* gives Y (N, C, H/s, W/s) as its first output */
} operator_of_aps;

/* A node's kernel: its operator, and the functions of the ONNX Runtime that made it. */
typedef struct {
    const operator_of_aps *op;
    ort_functions functions;
} kernel_of_node;

/* A computation: the first failure stands in `status`, and nothing is done after it. */
typedef struct {
    ort_functions functions;
    ort_context *context;
    ort_status *status;
} run;

static void fail(run *r, int code, const char *message) {
    if (r->status == NULL) r->status = CALL(r->functions, CREATE_STATUS)(code, message);
}

static ort_value *input(run *r, size_t i) {
    const ort_value *value = NULL;
    if (r->status == NULL) r->status = CALL(r->functions, GET_INPUT)(r->context, i, &value);
    return (ort_value *)value; /* the function that gives an address takes no constant */
}

static ort_value *output(run *r, size_t i, const int64_t *sizes, size_t count) {
    ort_value *value = NULL;
    if (r->status == NULL) r->status = CALL(r->functions, GET_OUTPUT)(r->context, i, sizes, count, &value);
    return value;
}

static void *data_of(run *r, ort_value *value) {
    void *data = NULL;
    if (r->status == NULL) r->status = CALL(r->functions, GET_DATA)(value, &data);
    return data;
}

static void sizes_of(run *r, const ort_value *value, int64_t *sizes, size_t count) {
    ort_shape *shape = NULL;
    size_t found = 0;
    if (r->status == NULL) r->status = CALL(r->functions, GET_SHAPE)(value, &shape);
    if (shape == NULL) return;
    if (r->status == NULL) r->status = CALL(r->functions, GET_NUM_DIMENSIONS)(shape, &found);
    if (found != count) fail(r, ORT_INVALID_ARGUMENT, "an input of a polyphase operator has the wrong rank");
    if (r->status == NULL) r->status = CALL(r->functions, GET_DIMENSIONS)(shape, sizes, count);
    CALL(r->functions, RELEASE_SHAPE)(shape);
}

/* An aps_parallel_for in ONNX Runtime's own threads; the runner is the run. */
static void in_its_threads(void *runner, void (*task)(void *data, size_t i), size_t count, void *data) {
    run *r = runner;
    if (r->status == NULL) r->status = CALL(r->functions, PARALLEL_FOR)(r->context, task, count, 0, data);
}

static aps_map map_of(run *r, const operator_of_aps *op) {
    int64_t sizes[4] = {0}, filter[4] = {0, 1, 1, 1};
    aps_map m = {0};
    ort_value *values = input(r, 0);
    sizes_of(r, values, sizes, 4);
    m.values = data_of(r, values);
    if (op->is_blurred) {
        ort_value *weights = input(r, 1);
        sizes_of(r, weights, filter, 4);
        m.filter = data_of(r, weights);
        if (filter[0] != sizes[1] || filter[1] != 1 || filter[2] != filter[3])
            fail(r, ORT_INVALID_ARGUMENT, "the filter of a polyphase operator is not of shape (C, 1, f, f)");
    }
    m.batch = sizes[0], m.channels = sizes[1], m.height = sizes[2], m.width = sizes[3];
    m.filter_size = filter[2], m.stride = op->stride;
    if (r->status == NULL && aps_why_invalid(&m)) fail(r, ORT_INVALID_ARGUMENT, aps_why_invalid(&m));
    return m;
}

static int64_t *choose(run *r, const operator_of_aps *op, const aps_map *m) {
    int64_t *index = data_of(r, output(r, op->takes ? 1 : 0, &m->batch, 1));
    if (r->status || m->batch == 0) return index;
    void *scratch = malloc(aps_scratch_bytes(m));
    if (scratch == NULL) {
        fail(r, ORT_FAIL, "no memory for the energies of a polyphase operator");
        return index;
    }
    aps_choose(m, op->criterion, index, scratch, in_its_threads, r);
    free(scratch);
    return index;
}

static int64_t *given_index(run *r, const operator_of_aps *op, const aps_map *m) {
    int64_t batch = 0;
    ort_value *value = input(r, op->is_blurred ? 2 : 1);
    sizes_of(r, value, &batch, 1);
    int64_t *index = data_of(r, value);
    if (r->status == NULL && batch != m->batch) fail(r, ORT_INVALID_ARGUMENT, "there is not one index for each image");
    for (int64_t n = 0; r->status == NULL && n < batch; n++)
        if (index[n] < 0 || index[n] >= m->stride * m->stride)
            fail(r, ORT_INVALID_ARGUMENT, "an index is none of a polyphase component");
    return index;
}

static ort_status *compute(void *kernel, ort_context *context) {
    const kernel_of_node *node = kernel;
    const operator_of_aps *op = node->op;
    run r = {node->functions, context, NULL};
    const aps_map m = map_of(&r, op);
    if (r.status) return r.status;
    const int64_t *index = op->chooses ? choose(&r, op, &m) : given_index(&r, op, &m);
    if (op->takes) {
        const int64_t sizes[4] = {m.batch, m.channels, m.height / m.stride, m.width / m.stride};
        float *taken = data_of(&r, output(&r, 0, sizes, 4));
        if (r.status == NULL) aps_take(&m, index, taken, in_its_threads, &r);
    }
    return r.status;
}

static ort_status *create(const ort_operator *op, ort_functions functions, const ort_kernel_info *info, void **kernel) {
    (void)info;
    kernel_of_node *node = malloc(sizeof *node);
    if (node == NULL) return CALL(functions, CREATE_STATUS)(ORT_FAIL, "no memory for a polyphase operator");
    *node = (kernel_of_node){(const operator_of_aps *)op, functions};
    *kernel = node;
    return NULL;
}

static size_t num_inputs(const ort_operator *base) {
    const operator_of_aps *op = (const operator_of_aps *)base;
    return 1 + (size_t)op->is_blurred + (size_t)!op->chooses;
}

static size_t num_outputs(const ort_operator *base) {
    const operator_of_aps *op = (const operator_of_aps *)base;
    return (size_t)op->takes + (size_t)op->chooses;
}

static int input_type(const ort_operator *base, size_t i) {
    const operator_of_aps *op = (const operator_of_aps *)base;
    return !op->chooses && i + 1 == num_inputs(base) ? ORT_INT64 : ORT_FLOAT32;
}

static int output_type(const ort_operator *base, size_t i) {
    const operator_of_aps *op = (const operator_of_aps *)base;
    return op->takes && i == 0 ? ORT_FLOAT32 : ORT_INT64;
}

static const char *name_of(const ort_operator *op) { return ((const operator_of_aps *)op)->name; }
static const char *provider_of(const ort_operator *op) { return (void)op, "CPUExecutionProvider"; }
static int required(const ort_operator *op, size_t i) { return (void)op, (void)i, 0; }
static int default_memory(const ort_operator *op, size_t i) { return (void)op, (void)i, 0; }
static int one(const ort_operator *op) { return (void)op, 1; }
static int any_later(const ort_operator *op) { return (void)op, INT32_MAX; }

static const ort_operator BASE = {
    .version = ORT_INTERFACE_VERSION,
    .get_name = name_of,
    .get_provider = provider_of,
    .get_input_type = input_type,
    .get_num_inputs = num_inputs,
    .get_output_type = output_type,
    .get_num_outputs = num_outputs,
    .destroy = free,
    .get_input_kind = required,
    .get_output_kind = required,
    .get_input_memory = default_memory,
    .get_min_variadic_inputs = one,
    .get_variadic_inputs_alike = one,
    .get_min_variadic_outputs = one,
    .get_variadic_outputs_alike = one,
    .create = create,
    .compute = compute,
    .get_first_version = one,
    .get_last_version = any_later,
};

/* The names are those of export/op_names.py: what is not spelled is stride 2. */
static const char *const CRITERIA[APS_NUM_CRITERIA] = {"L2", "L1", "L2Min", "L1Min"};
enum { SMALLEST_STRIDE = 2, NUM_STRIDES = APS_LARGEST_STRIDE - 1, OPERATORS_PER_STRIDE = 4 * APS_NUM_CRITERIA + 2 };
static operator_of_aps operators[NUM_STRIDES * OPERATORS_PER_STRIDE];

static void name_operator(operator_of_aps *op) {
    const char *verb = op->chooses && op->takes ? "Select" : op->chooses ? "Index" : "Take";
    const char *criterion = op->chooses ? CRITERIA[op->criterion] : "";
    char stride[8] = "";
    if (op->stride != SMALLEST_STRIDE) snprintf(stride, sizeof stride, "_S%d", (int)op->stride);
    snprintf(op->name, sizeof op->name, "%s%s%s%s%s", op->is_blurred ? "Blurred" : "Polyphase", verb,
             op->chooses ? "_" : "", criterion, stride);
}

static size_t write_operators(void) {
    size_t count = 0;
    for (int64_t stride = SMALLEST_STRIDE; stride <= APS_LARGEST_STRIDE; stride++)
        for (int blurred = 0; blurred < 2; blurred++) {
            for (int criterion = 0; criterion < APS_NUM_CRITERIA; criterion++)
                for (int takes = 0; takes < 2; takes++)
                    operators[count++] =
                        (operator_of_aps){BASE, "", (enum aps_criterion)criterion, stride, blurred, 1, takes};
            operators[count++] = (operator_of_aps){BASE, "", APS_L2, stride, blurred, 0, 1};
        }
    for (size_t i = 0; i < count; i++) name_operator(&operators[i]);
    return count;
}

static ort_status *make_domain(ort_functions functions, ort_domain **domain) {
    ort_status *status = CALL(functions, CREATE_DOMAIN)("aps", domain);
    const size_t count = write_operators();
    for (size_t i = 0; status == NULL && i < count; i++)
        status = CALL(functions, ADD_TO_DOMAIN)(*domain, &operators[i].base);
    return status;
}

/* The entry point that ONNX Runtime looks for, in every session that is given this library. Sessions share one domain,
 * which lives as long as the library; a second ONNX Runtime in the process gets its own. */
APS_EXPORT ort_status *RegisterCustomOps(ort_options *options, const ort_base *base) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static ort_functions functions_of_domain;
    static ort_domain *domain;
    const ort_functions functions = base->get_functions(ORT_INTERFACE_VERSION);
    if (functions == NULL) return NULL; /* older than 1.17: the standard operators in the file run */
    pthread_mutex_lock(&lock);
    ort_status *status = NULL;
    if (domain == NULL || functions_of_domain != functions) {
        status = make_domain(functions, &domain);
        functions_of_domain = functions;
    }
    if (status == NULL) status = CALL(functions, ADD_DOMAIN)(options, domain);
    if (status != NULL) domain = NULL;
    pthread_mutex_unlock(&lock);
    return status;
}
