/* The part of ONNX Runtime's C interface that examples/c uses, declared by hand for machines without its header. Every function stands in its
 * place in the table, which ONNX Runtime never changes; what lies between is reserved. */
#pragma once
#include <stddef.h>
#include <stdint.h>

typedef struct OrtEnv OrtEnv;
typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtSession OrtSession;
typedef struct OrtEpDevice OrtEpDevice;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef enum { ORT_LOGGING_LEVEL_WARNING = 2 } OrtLoggingLevel;
typedef enum { OrtArenaAllocator = 1 } OrtAllocatorType;
typedef enum { OrtMemTypeDefault = 0 } OrtMemType;
typedef enum { ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1 } ONNXTensorElementDataType;

/* Slots FIRST to LAST. */
#define RESERVED(FIRST, LAST) void (*reserved_##FIRST[LAST - FIRST + 1])(void)

typedef struct OrtApi {
  RESERVED(0, 1);
  const char* (*GetErrorMessage)(const OrtStatus* status);
  OrtStatus* (*CreateEnv)(OrtLoggingLevel level, const char* name, OrtEnv** out);
  RESERVED(4, 6);
  OrtStatus* (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options, OrtSession** out);
  RESERVED(8, 8);
  OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                    const OrtValue* const* inputs, size_t num_inputs, const char* const* output_names,
                    size_t num_outputs, OrtValue** outputs);
  OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** out);
  RESERVED(11, 23);
  OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions* options, int threads);
  RESERVED(25, 48);
  OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* memory, void* data, size_t bytes, const int64_t* shape,
                                               size_t rank, ONNXTensorElementDataType type, OrtValue** out);
  RESERVED(50, 50);
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  RESERVED(52, 68);
  OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType allocator, OrtMemType type, OrtMemoryInfo** out);
  RESERVED(70, 91);
  void (*ReleaseEnv)(OrtEnv* env);
  void (*ReleaseStatus)(OrtStatus* status);
  void (*ReleaseMemoryInfo)(OrtMemoryInfo* memory);
  void (*ReleaseSession)(OrtSession* session);
  void (*ReleaseValue)(OrtValue* value);
  RESERVED(97, 99);
  void (*ReleaseSessionOptions)(OrtSessionOptions* options);
  RESERVED(101, 300);
  OrtStatus* (*RegisterExecutionProviderLibrary)(OrtEnv* env, const char* name, const char* path);
  OrtStatus* (*UnregisterExecutionProviderLibrary)(OrtEnv* env, const char* name);
  OrtStatus* (*GetEpDevices)(const OrtEnv* env, const OrtEpDevice* const** devices, size_t* count);
  OrtStatus* (*SessionOptionsAppendExecutionProvider_V2)(OrtSessionOptions* options, OrtEnv* env,
                                                         const OrtEpDevice* const* devices, size_t num_devices,
                                                         const char* const* keys, const char* const* values, size_t num_options);
  RESERVED(305, 311);
  const char* (*EpDevice_EpName)(const OrtEpDevice* device);
} OrtApi;

typedef struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)(void);
} OrtApiBase;

const OrtApiBase* OrtGetApiBase(void);
