/* The part of ONNX Runtime's C interface that custom operators need.
 *
 * Its functions stand in a table whose order is frozen: a release adds at the end and never moves one ("The ordering of
 * these fields MUST not change after that version has shipped", core/session/onnxruntime_c_api.cc). The positions are
 * those of version 17 (ONNX Runtime 1.17), which every later release still serves; tests/plugins/cpu runs all of them.
 */
#ifndef APS_ONNXRUNTIME_ABI_H
#define APS_ONNXRUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_INTERFACE_VERSION = 17 };

/* Objects of ONNX Runtime, which only it looks into. A status of NULL is success. */
typedef struct ort_status ort_status;
typedef struct ort_options ort_options;
typedef struct ort_domain ort_domain;
typedef struct ort_value ort_value;
typedef struct ort_shape ort_shape;
typedef struct ort_context ort_context;
typedef struct ort_kernel_info ort_kernel_info;

typedef const void *const *ort_functions;

typedef struct {
    ort_functions (*get_functions)(uint32_t version); /* NULL where the version is not served */
    const char *(*get_version)(void);
} ort_base;

/* CALL(table, GET_INPUT)(context, 0, &value): the function at its position, with its type. */
#define CALL(functions, name) ((type_##name)(functions)[name])

enum {
    CREATE_STATUS = 0,
    CREATE_DOMAIN = 26,
    ADD_TO_DOMAIN = 27,
    ADD_DOMAIN = 28,
    GET_DATA = 51,
    GET_NUM_DIMENSIONS = 61,
    GET_DIMENSIONS = 62,
    GET_SHAPE = 65,
    GET_INPUT = 90,
    GET_OUTPUT = 91,
    RELEASE_SHAPE = 99,
    PARALLEL_FOR = 274,
};

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };
enum { ORT_FLOAT32 = 1, ORT_INT64 = 7 };

struct ort_operator;
typedef ort_status *(*type_CREATE_STATUS)(int code, const char *message);
typedef ort_status *(*type_CREATE_DOMAIN)(const char *name, ort_domain **domain);
typedef ort_status *(*type_ADD_TO_DOMAIN)(ort_domain *domain, const struct ort_operator *op);
typedef ort_status *(*type_ADD_DOMAIN)(ort_options *options, ort_domain *domain);
typedef ort_status *(*type_GET_DATA)(ort_value *value, void **data);
typedef ort_status *(*type_GET_NUM_DIMENSIONS)(const ort_shape *shape, size_t *count);
typedef ort_status *(*type_GET_DIMENSIONS)(const ort_shape *shape, int64_t *sizes, size_t count);
typedef ort_status *(*type_GET_SHAPE)(const ort_value *value, ort_shape **shape);
typedef ort_status *(*type_GET_INPUT)(const ort_context *context, size_t i, const ort_value **value);
typedef ort_status *(*type_GET_OUTPUT)(ort_context *context, size_t i, const int64_t *sizes, size_t count,
                                       ort_value **value);
typedef void (*type_RELEASE_SHAPE)(ort_shape *shape);
typedef ort_status *(*type_PARALLEL_FOR)(const ort_context *context, void (*task)(void *data, size_t i), size_t count,
                                         size_t num_batches, void *data);

/* One operator: what ONNX Runtime asks of it. Functions that it may find missing are NULL. */
typedef struct ort_operator {
    uint32_t version;
    void *(*unused_create)(void);
    const char *(*get_name)(const struct ort_operator *op);
    const char *(*get_provider)(const struct ort_operator *op);
    int (*get_input_type)(const struct ort_operator *op, size_t i);
    size_t (*get_num_inputs)(const struct ort_operator *op);
    int (*get_output_type)(const struct ort_operator *op, size_t i);
    size_t (*get_num_outputs)(const struct ort_operator *op);
    void (*unused_compute)(void);
    void (*destroy)(void *kernel);
    int (*get_input_kind)(const struct ort_operator *op, size_t i);
    int (*get_output_kind)(const struct ort_operator *op, size_t i);
    int (*get_input_memory)(const struct ort_operator *op, size_t i);
    int (*get_min_variadic_inputs)(const struct ort_operator *op);
    int (*get_variadic_inputs_alike)(const struct ort_operator *op);
    int (*get_min_variadic_outputs)(const struct ort_operator *op);
    int (*get_variadic_outputs_alike)(const struct ort_operator *op);
    ort_status *(*create)(const struct ort_operator *op, ort_functions functions, const ort_kernel_info *info,
                          void **kernel);
    ort_status *(*compute)(void *kernel, ort_context *context);
    void *(*infer_shapes)(void);
    int (*get_first_version)(const struct ort_operator *op);
    int (*get_last_version)(const struct ort_operator *op);
    void *(*get_in_place)(void);
    void *(*release_in_place)(void);
    void *(*get_aliases)(void);
    void *(*release_aliases)(void);
} ort_operator;

#endif
