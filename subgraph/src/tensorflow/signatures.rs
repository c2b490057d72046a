//! Output arguments of TensorFlow's operators, in the spelling of [`super::outputs`].

/// Outputs, and the operators that have them.
#[rustfmt::skip]
pub(super) const SIGNATURES: &[(&str, &str)] = &[
    (
        "output:T",
        "AdjustContrastv2 AdjustHue AdjustSaturation AvgPool AvgPool3D BandedTriangularSolve BatchMatMul BatchMatMulV2 \
         BatchToSpace BatchToSpaceND BiasAdd BiasAddV1 BroadcastTo CheckNumerics CheckNumericsV2 Cholesky ClipByValue \
         Concat ConcatV2 Conj Conv Conv2D Conv2DBackpropFilter Conv2DBackpropFilterV2 Conv2DBackpropInput \
         Conv2DBackpropInputV2 Conv3D Conv3DBackpropFilter Conv3DBackpropFilterV2 Conv3DBackpropInput \
         Conv3DBackpropInputV2 Copy CountUpTo DenseBincount DepthToSpace DepthwiseConv2dNative \
         DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Diag Dilation2D DrawBoundingBoxes \
         DrawBoundingBoxesV2 Einsum EnsureShape Enter EuclideanNorm Exit ExpandDims Fill FusedPadConv2D \
         FusedResizeAndPadConv2D GuaranteeConst HSVToRGB Identity L2Loss LRN LinSpace MatrixDeterminant MatrixDiag \
         MatrixDiagV2 MatrixDiagV3 MatrixExponential MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 \
         MatrixSetDiagV3 MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max MaxPool MaxPool3D MaxPoolV2 \
         Mean Min MirrorPad NextAfter NextIteration OneHot Pack Pad PadV2 ParallelConcat PreventGradient Print Prod \
         QuantizeAndDequantize QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 RGBToHSV Reshape \
         Reverse ReverseSequence ReverseV2 Roll ScatterNd ScatterNdNonAliasingAdd SegmentMax SegmentMaxV2 SegmentMean \
         SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 SegmentSum SegmentSumV2 Select SelectV2 SelfAdjointEig Slice \
         Snapshot SpaceToBatch SpaceToBatchND SpaceToDepth SparseSegmentMean SparseSegmentSum Squeeze StackPush \
         StackPushV2 StopGradient StridedSlice Sum TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub \
         TensorScatterUpdate TensorStridedSliceUpdate Tile TridiagonalMatMul TridiagonalSolve UnsortedSegmentMax \
         UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum _Arg _DeviceArg _EagerConst _FusedConv2D _FusedConv3D \
         _FusedDepthwiseConv2dNative _ScopedAllocator _ScopedAllocatorConcat",
    ),
    (
        "y:T",
        "Abs Acos Acosh Asin Asinh Atan Atanh BesselI0 BesselI0e BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e \
         BesselK1 BesselK1e BesselY0 BesselY1 Ceil ConjugateTranspose Cos Cosh Dawsn DeepCopy Digamma Erf Erfc Erfinv Exp \
         Expint Expm1 Floor FresnelCos FresnelSin InplaceAdd InplaceSub InplaceUpdate Inv Invert InvertPermutation Lgamma \
         Log Log1p Ndtri Neg OnesLike Reciprocal Rint Round Rsqrt Sigmoid Sign Sin Sinh Spence Sqrt Square Tan Tanh \
         Transpose ZerosLike _UnaryOpsComposition",
    ),
    (
        "",
        "Abort Assert AssignAddVariableOp AssignSubVariableOp AssignVariableOp AssignVariableXlaConcatND ControlTrigger \
         DestroyResourceOp DisableCopyOnRead DumpTensor FileSystemSetConfiguration FinalizeTPUEmbedding \
         LoadAllTPUEmbeddingParameters LookupTableImport LookupTableImportV2 LookupTableInsert LookupTableInsertV2 \
         LookupTableRemoveV2 MergeV2Checkpoints NoOp PrintV2 RngSkip RpcServerRegister RpcServerStart SdcaShrinkL1 \
         StackClose StackCloseV2 StoreMinibatchStatisticsInFdo StringListAttr SyncDevice TensorArrayClose \
         TensorArrayCloseV2 TensorArrayCloseV3 UpdateTaskIdAndGlobalCoreArray WriteFile _DeviceRetval _Retval \
         _SetGlobalTPUArray _ShutdownDistributedTPU",
    ),
    (
        "z:T",
        "Add AddV2 Atan2 Betainc BitwiseAnd BitwiseOr BitwiseXor Div DivNoNan FloorDiv FloorMod Igamma Igammac LeftShift \
         Maximum Minimum Mod Mul MulNoNan Polygamma Pow RealDiv RightShift SquaredDifference Sub TruncateDiv TruncateMod \
         Xdivy Xlog1py Xlogy Zeta",
    ),
    (
        "output:dtype",
        "Const Dequantize Empty FakeParam HostConst NonDeterministicInts ParameterizedTruncatedNormal Placeholder \
         PlaceholderV2 PlaceholderWithDefault RandomStandardNormal RandomUniform ResourceGather ResourceGatherNd \
         StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomUniform StatelessRandomUniformV2 TruncatedNormal",
    ),
    (
        "output:string",
        "AsString DecodeBase64 EncodeBase64 ReduceJoin RegexReplace StaticRegexReplace StringFormat StringJoin \
         StringLower StringStrip StringUpper Substr UnicodeEncode UnicodeTranscode UnsortedSegmentJoin \
         _ConfigureDistributedTPU",
    ),
    (
        "output_ref:ref",
        "Assign AssignAdd AssignSub ScatterAdd ScatterDiv ScatterMax ScatterMin ScatterMul ScatterNdAdd ScatterNdMax \
         ScatterNdMin ScatterNdSub ScatterNdUpdate ScatterSub ScatterUpdate StridedSliceAssign",
    ),
    (
        "output:*Tout",
        "Case EagerPyFunc If PartitionedCall PyFunc PyFuncStateless RpcGetValue StatefulPartitionedCall StatelessCase \
         StatelessIf _If",
    ),
    ("output:Tcomplex", "FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D IFFTND RFFT RFFT2D RFFT3D"),
    (
        "flow_out:f32",
        "TensorArrayScatter TensorArrayScatterV2 TensorArrayScatterV3 TensorArraySplit TensorArraySplitV2 \
         TensorArraySplitV3 TensorArrayUnpack TensorArrayWrite TensorArrayWriteV2 TensorArrayWriteV3",
    ),
    (
        "output_handle:variant",
        "TensorListFromTensor TensorListPushBack TensorListResize TensorListScatter TensorListScatterIntoExistingList \
         TensorListScatterV2 TensorListSetItem TensorListSplit TensorMapErase TensorMapInsert",
    ),
    ("z:bool", "ApproximateEqual Equal Greater GreaterEqual Less LessEqual LogicalAnd LogicalOr NotEqual"),
    ("output:out_type", "DecodeRaw LowerBound ParseTensor Shape Size StringToNumber UpperBound VariableShape"),
    (
        "value:dtype",
        "ReadVariableOp TensorArrayGather TensorArrayGatherV2 TensorArrayGatherV3 TensorArrayPack TensorArrayRead \
         TensorArrayReadV2 TensorArrayReadV3",
    ),
    ("activations:T", "Elu LeakyRelu Relu Relu6 Selu Softplus Softsign"),
    ("output:Tout", "Angle BatchMatMulV3 Imag RandomUniformInt Real UniformDequantize UniformQuantize"),
    ("output:bool", "All Any LoopCond RegexFullMatch StaticRegexFullMatch ToBool"),
    ("output:*T", "For IdentityN StatelessWhile While _While"),
    (
        "output:i64",
        "SdcaFprint StringToHashBucket StringToHashBucketFast StringToHashBucketStrong _TensorToHashBucketFast",
    ),
    ("size:i32", "SetSize TensorArraySize TensorArraySizeV2 TensorArraySizeV3 TensorMapSize"),
    ("summary:string", "HistogramSummary MergeSummary ScalarSummary TensorSummary TensorSummaryV2"),
    ("diagonal:T", "DiagPart MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3"),
    (
        "is_initialized:bool",
        "IsBoostedTreesEnsembleInitialized IsBoostedTreesQuantileStreamResourceInitialized IsVariableInitialized \
         VarIsInitializedOp",
    ),
    ("out:T", "Binary Cumprod Cumsum CumulativeLogsumexp"),
    ("output:f32", "AdjustContrast EditDistance MakeUnique Mfcc"),
    ("output:i32", "Bucketize Rank StringLength UnicodeScript"),
    ("product:T", "Cross MatMul SparseTensorDenseMatMul _FusedMatMul"),
    (
        "selected_indices:i32",
        "NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionWithOverlaps",
    ),
    ("y:bool", "IsFinite IsInf IsNan LogicalNot"),
    ("contents:string", "EncodeJpeg EncodePng ReadFile"),
    (
        "device_outputs:*Tdevice_outputs host_outputs:*Thost_outputs",
        "_FusedQuantizedConv2D _FusedQuantizedDepthwiseConv2D _QuantizedMatMul",
    ),
    ("handle:ref", "FakeQueue Stack TensorArray"),
    ("handle:variant", "EmptyTensorList EmptyTensorMap TensorListReserve"),
    ("i:T cs:T f:T o:T ci:T co:T h:T", "BlockLSTM BlockLSTMV2 LSTMBlockCell"),
    ("output:Tparams", "Gather GatherNd GatherV2"),
    ("output:Treal", "IRFFT IRFFT2D IRFFT3D"),
    (
        "output:out_type output_min:f32 output_max:f32",
        "QuantizeDownAndShrinkRange Requantize RequantizePerChannel",
    ),
    ("outputs:f32", "FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel"),
    ("ref:ref", "TemporaryVariable Variable VariableV2"),
    ("resized_images:f32", "ResizeArea ResizeBicubic ResizeBilinear"),
    ("value:dtype lengths:i64", "TensorArrayConcat TensorArrayConcatV2 TensorArrayConcatV3"),
    ("begin:T size:T bboxes:f32", "SampleDistortedBoundingBox SampleDistortedBoundingBoxV2"),
    ("elem:elem_type", "StackPop StackPopV2"),
    ("glimpse:f32", "ExtractGlimpse ExtractGlimpseV2"),
    ("handle:resource", "StackV2 ThreadPoolHandle"),
    ("image:dtype", "DecodeImage DecodePng"),
    ("index:i64", "KMC2ChainInitialization Where"),
    ("indices:i64 values:string shape:i64", "StringSplit StringSplitV2"),
    ("keys:Tkeys values:Tvalues", "LookupTableExport LookupTableExportV2"),
    ("loss:T backprop:T", "SoftmaxCrossEntropyWithLogits SparseSoftmaxCrossEntropyWithLogits"),
    ("merged:T", "DynamicStitch ParallelDynamicStitch"),
    ("out:f32", "A B"),
    ("output:N*T", "_ListToArray _ScopedAllocatorSplit"),
    ("output:T row_pooling_sequence:i64 col_pooling_sequence:i64", "FractionalAvgPool FractionalMaxPool"),
    ("output:Tidx", "Range UnravelIndex"),
    ("output:num_split*T", "Split SplitV"),
    ("output:output_type", "ArgMax ArgMin"),
    ("output:variant", "MergeDedupData TensorListConcatLists"),
    ("output_min:f32 output_max:f32", "RequantizationRange RequantizationRangePerChannel"),
    ("patches:T", "ExtractImagePatches ExtractVolumePatches"),
    ("precision:bool", "InTopK InTopKV2"),
    ("reader_handle:ref", "IdentityReader LMDBReader"),
    (
        "result_indices:i64 result_values:T result_shape:i64",
        "DenseToDenseSetOperation DenseToSparseSetOperation",
    ),
    ("size:i64", "LookupTableSize LookupTableSizeV2"),
    ("tensor:element_dtype lengths:i64", "TensorListConcat TensorListConcatV2"),
    ("topk:f32 topk_indices:i32", "TopKUnique TopKWithUnique"),
    ("transformed_images:dtype", "ImageProjectiveTransformV2 ImageProjectiveTransformV3"),
    ("values:*dtypes", "Unstage _ReadVariablesOp"),
    ("values:T indices:i32", "ApproxTopK TopK"),
    ("values:Tout", "LookupTableFind LookupTableFindV2"),
    (
        "y:T batch_mean:U batch_variance:U reserve_space_1:U reserve_space_2:U reserve_space_3:U",
        "FusedBatchNormV3 _FusedBatchNormEx",
    ),
    ("y:T idx:out_idx", "Unique UniqueV2"),
    ("y:T idx:out_idx count:out_idx", "UniqueWithCounts UniqueWithCountsV2"),
    ("band:T", "MatrixBandPart"),
    ("bins:T", "Bincount"),
    ("client:resource method_specs:string", "RpcClient"),
    ("common_config:string", "ExecuteTPUEmbeddingPartitioner"),
    ("compilation_status:string program:num_computations*string", "_TPUCompileMlir"),
    ("components:*output_types", "UncompressElement"),
    ("compressed:variant", "CompressElement"),
    (
        "context_sparse_indices:Ncontext_sparse*i64 context_sparse_values:*context_sparse_types context_sparse_shapes:Ncontext_sparse*i64 context_dense_values:*Tcontext_dense context_ragged_values:*context_ragged_value_types context_ragged_row_splits:*context_ragged_split_types feature_list_sparse_indices:Nfeature_list_sparse*i64 feature_list_sparse_values:*feature_list_sparse_types feature_list_sparse_shapes:Nfeature_list_sparse*i64 feature_list_dense_values:*feature_list_dense_types feature_list_dense_lengths:Nfeature_list_dense*i64 feature_list_ragged_values:*feature_list_ragged_value_types feature_list_ragged_outer_splits:*feature_list_ragged_split_types feature_list_ragged_inner_splits:*feature_list_ragged_split_types",
        "ParseSequenceExampleV2",
    ),
    (
        "context_sparse_indices:Ncontext_sparse*i64 context_sparse_values:*context_sparse_types context_sparse_shapes:Ncontext_sparse*i64 context_dense_values:*Tcontext_dense feature_list_sparse_indices:Nfeature_list_sparse*i64 feature_list_sparse_values:*feature_list_sparse_types feature_list_sparse_shapes:Nfeature_list_sparse*i64 feature_list_dense_values:*feature_list_dense_types",
        "ParseSingleSequenceExample",
    ),
    (
        "context_sparse_indices:Ncontext_sparse*i64 context_sparse_values:*context_sparse_types context_sparse_shapes:Ncontext_sparse*i64 context_dense_values:*Tcontext_dense feature_list_sparse_indices:Nfeature_list_sparse*i64 feature_list_sparse_values:*feature_list_sparse_types feature_list_sparse_shapes:Nfeature_list_sparse*i64 feature_list_dense_values:*feature_list_dense_types feature_list_dense_lengths:Nfeature_list_dense*i64",
        "ParseSequenceExample",
    ),
    ("crops:f32", "CropAndResize"),
    ("decoded_indices:i64 decoded_values:i64 decoded_shape:i64 log_probability:T", "CTCGreedyDecoder"),
    (
        "decoded_indices:top_paths*i64 decoded_values:top_paths*i64 decoded_shape:top_paths*i64 log_probability:T",
        "CTCBeamSearchDecoder",
    ),
    ("dense:T", "SparseToDense"),
    ("device:string", "DevicePlacementOp"),
    ("dtype:string", "DtypeWithDefaultOp"),
    ("dup:resource", "MakeWeakResourceHandle"),
    ("e:T v:T", "SelfAdjointEigV2"),
    ("e:Tout v:Tout", "Eig"),
    ("element_shape:shape_type", "TensorListElementShape"),
    ("embedding_partitions:string hbm_buffers_config:string", "FinalizeTPUEmbeddingV2"),
    ("enabled:bool", "IsTensorFloat32Enabled"),
    ("error_code:i64 error:string", "RpcCheckStatus"),
    ("fact:string", "Fact"),
    ("filenames:string", "MatchingFiles"),
    ("filter_backprop:T", "Dilation2DBackpropFilter"),
    ("fingerprint:u8", "Fingerprint"),
    ("future:resource deleter:variant", "RpcCall"),
    ("handle:resource flow:f32", "TensorArrayV3"),
    ("handle:string", "TensorArrayV2"),
    ("has_key:bool", "TensorMapHasKey"),
    ("image:u8", "DecodeJpeg"),
    ("image_shape:output_type", "ExtractJpegShape"),
    ("in_backprop:T", "Dilation2DBackpropInput"),
    ("index:i32", "DeviceIndex"),
    ("integer_tensor:integer_type float_tensor:float_type", "SplitDedupData"),
    ("is_tpu_embedding_initialized:bool", "IsTPUEmbeddingInitialized"),
    ("item:element_dtype", "TensorListGetItem"),
    ("iter_id:i64", "GlobalIterId"),
    ("key:string value:string", "ReaderReadV2"),
    ("key:u64 counter:u64", "StatelessRandomGetKeyCounter"),
    ("keys:key_dtype", "TensorMapStackKeys"),
    ("length:i32", "TensorListLength"),
    ("logsoftmax:T", "LogSoftmax"),
    ("lu:T p:output_idx_type", "Lu"),
    ("merged_memory_config:string", "CollateTPUEmbeddingMemory"),
    ("ngrams:string ngrams_splits:Tsplits", "StringNGrams"),
    ("nmsed_boxes:f32 nmsed_scores:f32 nmsed_classes:f32 valid_detections:i32", "CombinedNonMaxSuppression"),
    ("number_of_tpu_chips:i32", "_DisconnectHostFromDistributedTPUSystem"),
    ("offset:N*shape_type", "ConcatOffset"),
    ("out:T idx:out_idx", "ListDiff"),
    ("out:Tout", "Complex"),
    ("out:dtype", "HistogramFixedWidth"),
    ("out:i64", "Int64Output"),
    ("output1:f32 output2:string", "Namespace>TestStringOutput"),
    ("output:*out_types", "_ArrayToList"),
    ("output:*output_types", "MapDefun"),
    ("output:N*out_type", "ShapeN"),
    ("output:T argmax:Targmax", "MaxPoolWithArgmax"),
    ("output:T min_output:f32 max_output:f32", "_QuantizedMaxPool3D"),
    ("output:T output_min:f32 output_max:f32", "QuantizeV2"),
    ("output:T value_index:i32", "Merge"),
    ("output:f32 min:f32 max:f32 histogram:i64", "CustomAggregator"),
    ("output:num*T", "Unpack"),
    ("output:output_dtype", "Multinomial"),
    ("output:output_dtype segments:i32", "IsotonicRegression"),
    ("output:type", "Bitcast"),
    ("output_false:T output_true:T", "Switch"),
    ("output_handle:variant tensor:element_dtype", "TensorListPopBack"),
    ("output_handles:variant", "TensorListPushBackBatch"),
    ("output_indices:i64 output_shape:i64", "SparseReshape"),
    (
        "output_indices:i64 output_values:T empty_row_indicator:bool reverse_index_map:i64",
        "SparseFillEmptyRows",
    ),
    ("output_indices:i64 output_values:output_type output_dense_shape:i64", "DenseCountSparseOutput"),
    ("output_nested_splits:OUTPUT_RAGGED_RANK*Tsplits output_dense_values:Tvalues", "RaggedGather"),
    ("outputs:*Toutputs", "MlirPassthroughOp"),
    ("outputs:*output_types", "_TPUReplicate"),
    ("outputs:N*T", "ReadVariableXlaSplitND"),
    ("outputs:num_outs*T", "_SwitchN"),
    ("outputs:num_partitions*T", "DynamicPartition"),
    (
        "parameters:NumTables*f32 auxiliary1:NumTables*f32 auxiliary2:NumTables*f32 auxiliary3:NumTables*f32 auxiliary4:NumTables*f32 auxiliary5:NumTables*f32 auxiliary6:NumTables*f32 auxiliary7:NumTables*f32",
        "RetrieveAllTPUEmbeddingParameters",
    ),
    ("q:T r:T", "Qr"),
    ("r0:T", "BroadcastArgs"),
    ("r:T u:T c:T h:T", "GRUBlockCell"),
    ("reader_handle:resource", "IdentityReaderV2"),
    ("resized_images:T", "ResizeNearestNeighbor"),
    ("resource:resource", "VarHandleOp"),
    ("resources:N*resource", "_VarHandlesOp"),
    ("response:string", "WorkerHeartbeat"),
    ("result:T", "RaggedTensorToTensor"),
    ("result:bool", "IsResourceHandleRefCounting"),
    ("rois:f32 roi_probabilities:f32", "GenerateBoundingBoxProposals"),
    ("row_ids:i32 col_ids:i32 gains:f32", "ConvertToCooTensor"),
    (
        "row_ids_list:num_sc_per_chip*i32 col_ids_list:num_sc_per_chip*i32 gains_list:num_sc_per_chip*f32",
        "ConvertToListOfSparseCoreCooTensors",
    ),
    (
        "row_pointers:i32 sorted_sample_ids:i32 sorted_token_ids:i32 sorted_gains:f32 row_pointers_unpadded_size:i32 ids_unpadded_size:i32 num_minibatches_per_sc:i32",
        "ConvertToSparseCoreCsrWrappedCooTensor",
    ),
    ("row_splits:Tsplits char_values:i32", "UnicodeDecode"),
    ("row_splits:Tsplits char_values:i32 char_to_byte_starts:i64", "UnicodeDecodeWithOffsets"),
    ("rt_nested_splits:Tsplits rt_dense_values:T", "RaggedRange"),
    ("s:T u:T v:T", "Svd"),
    (
        "sampled_candidates:i64 true_expected_count:f32 sampled_expected_count:f32",
        "FixedUnigramCandidateSampler",
    ),
    ("samples:f32", "KmeansPlusPlusInitialization"),
    ("selected_indices:i32 selected_scores:T valid_outputs:i32", "NonMaxSuppressionV5"),
    ("selected_indices:i32 valid_outputs:i32", "NonMaxSuppressionV4"),
    ("server:resource", "RpcServer"),
    ("sign:T log_abs_determinant:T", "LogMatrixDeterminant"),
    ("softmax:T", "Softmax"),
    ("sorted_row_ids:i32 sorted_col_ids:i32 sorted_gains:f32 id_counts:i32", "SortListOfSparseCoreCooTensors"),
    ("sparse_handle:i64", "AddSparseToTensorsMap"),
    ("sparse_handles:i64", "AddManySparseToTensorsMap"),
    (
        "sparse_indices:Nsparse*i64 sparse_values:*sparse_types sparse_shapes:Nsparse*i64 dense_values:*Tdense",
        "ParseExample",
    ),
    ("sparse_indices:i64 sparse_values:T sparse_dense_shape:i64", "RaggedTensorToSparse"),
    (
        "sparse_indices:num_sparse*i64 sparse_values:*sparse_types sparse_shapes:num_sparse*i64 dense_values:*Tdense",
        "ParseSingleExample",
    ),
    (
        "sparse_indices:num_sparse*i64 sparse_values:*sparse_types sparse_shapes:num_sparse*i64 dense_values:*Tdense ragged_values:*ragged_value_types ragged_row_splits:*ragged_split_types",
        "ParseExampleV2",
    ),
    ("sparse_output:variant", "DenseToCSRSparseMatrix"),
    ("spectrogram:f32", "AudioSpectrogram"),
    ("sum:T", "AddN"),
    ("table_handle:ref", "HashTable"),
    ("table_handle:resource", "HashTableV2"),
    ("tensor:element_dtype", "TensorListStack"),
    ("topology:string", "_WaitForDistributedTPU"),
    ("tpu_ids:i32", "_InitializeHostForDistributedTPU"),
    ("ts:f64", "Timestamp"),
    ("value:T", "DestroyTemporaryVariable"),
    ("value:i64", "RngReadAndSkip"),
    ("value:value_dtype", "TensorMapLookup"),
    ("values:T", "NthElement"),
    ("values:T indices:index_type", "TopKV2"),
    ("values:element_dtype", "TensorListGather"),
    ("y:DstT", "Cast"),
    ("y:T batch_mean:T batch_variance:T reserve_space_1:T reserve_space_2:T", "FusedBatchNorm"),
    ("y:T batch_mean:U batch_variance:U reserve_space_1:U reserve_space_2:U", "FusedBatchNormV2"),
    ("y:Tout", "ComplexAbs"),
    ("y:u8", "PopulationCount"),
];
