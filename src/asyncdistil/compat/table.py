"""Which names distilabel 1.5.3 has, in which module, and where each lives here.

One table for all who ask: old import paths, scripts that import distilabel, pipeline files that
name its classes.
"""

from __future__ import annotations

_HOMES: dict[str, str] = {
    "compat.annotations": (
        "DownstreamConnectable DownstreamConnectableSteps InputDataset "
        "PipelineRuntimeParametersInfo StepLoadStatus TokenCount UpstreamConnectableSteps"
    ),
    "distiset": "Distiset",
    "mixins.runtime_parameters": "RuntimeParameter",
    "models": (
        "AnthropicLLM AnyscaleLLM AsyncImageGenerationModel AsyncLLM AzureOpenAILLM ClientvLLM "
        "CohereLLM Embeddings GroqLLM ImageGenerationModel InferenceEndpointsImageGeneration "
        "InferenceEndpointsLLM LLM LiteLLM LlamaCppLLM MistralLLM MixtureOfAgentsLLM OllamaLLM "
        "OpenAIImageGeneration OpenAILLM SentenceTransformerEmbeddings TogetherLLM "
        "TransformersLLM VertexAILLM image_from_str image_to_str vLLM"
    ),
    "models.typing": (
        "ChatItem ChatType FormattedInput GenerateOutput HiddenState ImageContent ImageUrl "
        "InstructorStructuredOutputType LLMLogprobs LLMOutput LLMStatistics Logprob "
        "OutlinesStructuredOutputType StandardInput StructuredInput StructuredOutputType "
        "TextContent"
    ),
    "pipeline": (
        "InstructionResponsePipeline Pipeline RoutingBatchFunction requirements "
        "routing_batch_function sample_n_steps"
    ),
    "pipeline.options": "LoadGroups",
    "steps": (
        "CombineOutputs ConversationTemplate DBSCAN DataSampler DeitaFiltering EmbeddingDedup "
        "EmbeddingGeneration ExpandColumns FaissNearestNeighbour FormatChatGenerationDPO "
        "FormatChatGenerationSFT FormatTextGenerationDPO FormatTextGenerationSFT GeneratorStep "
        "GlobalStep GroupColumns KeepColumns LoadDataFromDicts LoadDataFromDisk "
        "LoadDataFromFileSystem LoadDataFromHub MergeColumns MinHashDedup PreferenceToArgilla "
        "PushToHub RewardModelScore Step StepResources TextGenerationToArgilla TruncateTextColumn "
        "UMAP make_generator_step"
    ),
    "steps.argilla": "ArgillaBase",
    "steps.decorator": "step",
    "steps.tasks": (
        "APIGenExecutionChecker APIGenGenerator APIGenSemanticChecker ArgillaLabeller "
        "BitextRetrievalGenerator CLAIR ChatGeneration ComplexityScorer EmbeddingTaskGenerator "
        "EvolComplexity EvolComplexityGenerator EvolInstruct EvolInstructGenerator EvolQuality "
        "FormatPRM GenerateEmbeddings GenerateLongTextMatchingData GenerateSentencePair "
        "GenerateShortTextMatchingData GenerateTextClassificationData GenerateTextRetrievalData "
        "GeneratorTask Genstruct GlobalTask ImageGeneration ImageTask InstructionBacktranslation "
        "Magpie MagpieGenerator MathShepherdCompleter MathShepherdGenerator "
        "MonolingualTripletGenerator PairRM PrepareExamples PrometheusEval QualityScorer "
        "SelfInstruct StructuredGeneration Task TextClassification TextClustering TextGeneration "
        "TextGenerationWithImage URIAL UltraFeedback task"
    ),
    "typing": "GeneratorStepOutput StepColumns StepInput StepOutput",
}

_RENAMED: dict[str, str] = {
    "BasePipeline": "pipeline:Pipeline",
    "CudaDevicePlacementMixin": "models.cuda:CudaDevices",
    "DISTILABEL_METADATA_KEY": "steps.metadata:METADATA_COLUMN",
    "DistilabelError": "errors:AsyncDistilError",
    "DistilabelException": "errors:AsyncDistilError",
    "DistilabelGenerationException": "errors:ModelError",
    "DistilabelNotImplementedError": "errors:UserError",
    "DistilabelOfflineBatchGenerationNotFinishedException": "errors:BatchesPending",
    "DistilabelTypeError": "errors:UserError",
    "DistilabelUserError": "errors:UserError",
    "MAGPIE_PRE_QUERY_TEMPLATES": "models.magpie:PRE_QUERY_TEMPLATES",
    "MagpieChatTemplateMixin": "models.magpie:MagpieChatTemplate",
    "RuntimeParametersMixin": "mixins.runtime_parameters:HasRuntimeParameters",
    "RuntimeParametersModelMixin": "mixins.runtime_parameters:HasRuntimeParameters",
    "RuntimeParametersNames": "mixins.runtime_parameters:RuntimeParameterNames",
    "is_openai_format": "steps.tasks.text_generation:is_conversation",
    "load_module_from_path": "compat.files:load_module_from_path",
    "merge_distilabel_metadata": "steps.metadata:merge_metadata",
    "split_solution_steps": "steps.tasks.math_shepherd:split_steps",
}

HOME: dict[str, str] = {
    name: module for module, names in _HOMES.items() for name in names.split()
} | _RENAMED
"""Name to the module below ``asyncdistil`` that has it; ``module:other`` if it is renamed."""

_CONSTANTS = (
    "BASE_CACHE_DIR CONVERGENCE_STEP_ATTR_NAME DISTILABEL_DOCS_URL DISTISET_ARTIFACTS_FOLDER "
    "DISTISET_CONFIG_FOLDER INPUT_QUEUE_ATTR_NAME LAST_BATCH_SENT_FLAG PIPELINES_CACHE_DIR "
    "PIPELINE_CONFIG_FILENAME PIPELINE_LOG_FILENAME RECEIVES_ROUTED_BATCHES_ATTR_NAME "
    "ROUTING_BATCH_FUNCTION_ATTR_NAME SIGINT_HANDLER_CALLED_ENV_NAME STEPS_ARTIFACTS_PATH "
    "STEPS_OUTPUTS_PATH STEP_ATTR_NAME"
)
_SERVED = "start the engine's own server and use OpenAIEmbeddings with its base_url"

ABSENT: dict[str, str] = {
    "ArenaHard": "it is defined in an example of distilabel's documentation, not in a release",
    **dict.fromkeys(_CONSTANTS.split(), "it is a name inside distilabel's own runtime"),
    "DAG": "Pipeline.graph gives a copy of the wiring",
    "InferenceEndpointsBaseClient": "derive your class from InferenceEndpointsLLM",
    "LlamaCppEmbeddings": _SERVED,
    "MlxLLM": "start mlx_lm.server and use OpenAILLM with its base_url",
    "OpenAIBaseClient": "derive your class from OpenAILLM",
    "RayPipeline": "use Pipeline, which runs on one machine",
    "RequirementsMixin": "use the decorator asyncdistil.pipeline.requirements",
    "SignatureMixin": "every step has identity(), which names all that can change its rows",
    "create_distiset": "a run returns its Distiset; Distiset.from_rows makes one of rows",
    "setup_logging": "a run leaves the logging of its program alone: configure it as you like",
    "vLLMEmbeddings": _SERVED,
}
"""Names that are not carried over, and what to write instead."""

MOVED: dict[str, str] = {
    "embeddings.": "models.embeddings.",
    "llms.": "models.llms.",
    "steps.combine": "steps.columns.combine",
    "steps.expand": "steps.columns.expand",
    "steps.keep": "steps.columns.keep",
}
"""Modules of older releases, by how their place begins."""

_EMBEDDINGS = "Embeddings LlamaCppEmbeddings SentenceTransformerEmbeddings vLLMEmbeddings"
_IMAGES = (
    "AsyncImageGenerationModel ImageGenerationModel InferenceEndpointsImageGeneration "
    "OpenAIImageGeneration"
)
_LLMS = (
    "AnthropicLLM AnyscaleLLM AsyncLLM AzureOpenAILLM ClientvLLM CohereLLM "
    "CudaDevicePlacementMixin GenerateOutput GroqLLM HiddenState InferenceEndpointsLLM LLM LiteLLM "
    "LlamaCppLLM MistralLLM MixtureOfAgentsLLM MlxLLM OllamaLLM OpenAILLM TogetherLLM "
    "TransformersLLM VertexAILLM vLLM"
)
_TYPES_BASE = "ChatItem ChatType ImageContent ImageUrl TextContent"
_TYPES_MODELS = (
    "FormattedInput GenerateOutput HiddenState InstructorStructuredOutputType LLMLogprobs "
    "LLMOutput LLMStatistics Logprob OutlinesStructuredOutputType StandardInput StructuredInput "
    "StructuredOutputType"
)
_TYPES_STEPS = "GeneratorStepOutput StepColumns StepOutput"
_TYPES_PIPELINE = (
    "DownstreamConnectable DownstreamConnectableSteps InputDataset LoadGroups "
    "PipelineRuntimeParametersInfo StepLoadStatus UpstreamConnectableSteps"
)
_IMPROVING = (
    "BitextRetrievalGenerator EmbeddingTaskGenerator GenerateLongTextMatchingData "
    "GenerateShortTextMatchingData GenerateTextClassificationData GenerateTextRetrievalData "
    "MonolingualTripletGenerator"
)

_MODULES: dict[str, str] = {
    "constants": f"DISTILABEL_METADATA_KEY {_CONSTANTS}",
    "distiset": "Distiset create_distiset",
    "embeddings": _EMBEDDINGS,
    "errors": (
        "DistilabelError DistilabelNotImplementedError DistilabelTypeError DistilabelUserError"
    ),
    "exceptions": (
        "DistilabelException DistilabelGenerationException "
        "DistilabelOfflineBatchGenerationNotFinishedException"
    ),
    "llms": _LLMS,
    "mixins": "",
    "mixins.requirements": "RequirementsMixin",
    "mixins.runtime_parameters": (
        "RuntimeParameter RuntimeParametersMixin RuntimeParametersModelMixin RuntimeParametersNames"
    ),
    "mixins.signature": "SignatureMixin",
    "models": f"{_LLMS} {_EMBEDDINGS} {_IMAGES}",
    "models.base_clients": "InferenceEndpointsBaseClient OpenAIBaseClient",
    "models.base_clients.inference_endpoints": "InferenceEndpointsBaseClient",
    "models.base_clients.openai": "OpenAIBaseClient",
    "models.embeddings": _EMBEDDINGS,
    "models.embeddings.base": "Embeddings",
    "models.embeddings.llamacpp": "LlamaCppEmbeddings",
    "models.embeddings.sentence_transformers": "SentenceTransformerEmbeddings",
    "models.embeddings.vllm": "vLLMEmbeddings",
    "models.image_generation": _IMAGES,
    "models.image_generation.base": "AsyncImageGenerationModel ImageGenerationModel",
    "models.image_generation.huggingface": "",
    "models.image_generation.huggingface.inference_endpoints": "InferenceEndpointsImageGeneration",
    "models.image_generation.openai": "OpenAIImageGeneration",
    "models.image_generation.utils": "image_from_str image_to_str",
    "models.llms": _LLMS,
    "models.llms.anthropic": "AnthropicLLM",
    "models.llms.anyscale": "AnyscaleLLM",
    "models.llms.azure": "AzureOpenAILLM",
    "models.llms.base": "AsyncLLM LLM",
    "models.llms.cohere": "CohereLLM",
    "models.llms.groq": "GroqLLM",
    "models.llms.huggingface": "InferenceEndpointsLLM TransformersLLM",
    "models.llms.huggingface.inference_endpoints": "InferenceEndpointsLLM",
    "models.llms.huggingface.transformers": "TransformersLLM",
    "models.llms.litellm": "LiteLLM",
    "models.llms.llamacpp": "LlamaCppLLM",
    "models.llms.mistral": "MistralLLM",
    "models.llms.mlx": "MlxLLM",
    "models.llms.moa": "MixtureOfAgentsLLM",
    "models.llms.ollama": "OllamaLLM",
    "models.llms.openai": "OpenAILLM",
    "models.llms.together": "TogetherLLM",
    "models.llms.vertexai": "VertexAILLM",
    "models.llms.vllm": "ClientvLLM vLLM",
    "models.mixins": "CudaDevicePlacementMixin MagpieChatTemplateMixin",
    "models.mixins.cuda_device_placement": "CudaDevicePlacementMixin",
    "models.mixins.magpie": "MAGPIE_PRE_QUERY_TEMPLATES MagpieChatTemplateMixin",
    "pipeline": (
        "InstructionResponsePipeline Pipeline RayPipeline routing_batch_function sample_n_steps"
    ),
    "pipeline._dag": "DAG",
    "pipeline.base": "BasePipeline",
    "pipeline.local": "Pipeline",
    "pipeline.ray": "RayPipeline",
    "pipeline.routing_batch_function": (
        "RoutingBatchFunction routing_batch_function sample_n_steps"
    ),
    "pipeline.templates": "InstructionResponsePipeline",
    "pipeline.templates.instruction": "InstructionResponsePipeline",
    "steps": (
        "CombineOutputs ConversationTemplate DBSCAN DataSampler DeitaFiltering EmbeddingDedup "
        "EmbeddingGeneration ExpandColumns FaissNearestNeighbour FormatChatGenerationDPO "
        "FormatChatGenerationSFT FormatTextGenerationDPO FormatTextGenerationSFT GeneratorStep "
        "GeneratorStepOutput GlobalStep GroupColumns KeepColumns LoadDataFromDicts "
        "LoadDataFromDisk LoadDataFromFileSystem LoadDataFromHub MergeColumns MinHashDedup "
        "PreferenceToArgilla PushToHub RewardModelScore Step StepInput StepOutput StepResources "
        "TextClustering TextGenerationToArgilla TruncateTextColumn UMAP make_generator_step step"
    ),
    "steps.argilla": "PreferenceToArgilla TextGenerationToArgilla",
    "steps.argilla.base": "ArgillaBase",
    "steps.argilla.preference": "PreferenceToArgilla",
    "steps.argilla.text_generation": "TextGenerationToArgilla",
    "steps.base": "GeneratorStep GlobalStep Step StepInput StepResources",
    "steps.clustering": "",
    "steps.clustering.dbscan": "DBSCAN",
    "steps.clustering.text_clustering": "TextClustering",
    "steps.clustering.umap": "UMAP",
    "steps.columns": "",
    "steps.columns.combine": "CombineOutputs",
    "steps.columns.expand": "ExpandColumns",
    "steps.columns.group": "GroupColumns",
    "steps.columns.keep": "KeepColumns",
    "steps.columns.merge": "MergeColumns",
    "steps.columns.utils": "merge_distilabel_metadata",
    "steps.decorator": "step",
    "steps.deita": "DeitaFiltering",
    "steps.embeddings": "",
    "steps.embeddings.embedding_generation": "EmbeddingGeneration",
    "steps.embeddings.nearest_neighbour": "FaissNearestNeighbour",
    "steps.filtering": "",
    "steps.filtering.embedding": "EmbeddingDedup",
    "steps.filtering.minhash": "MinHashDedup",
    "steps.formatting": "",
    "steps.formatting.conversation": "ConversationTemplate",
    "steps.formatting.dpo": "FormatChatGenerationDPO FormatTextGenerationDPO",
    "steps.formatting.sft": "FormatChatGenerationSFT FormatTextGenerationSFT",
    "steps.generators": "",
    "steps.generators.data": "LoadDataFromDicts",
    "steps.generators.data_sampler": "DataSampler",
    "steps.generators.huggingface": "LoadDataFromDisk LoadDataFromFileSystem LoadDataFromHub",
    "steps.generators.utils": "make_generator_step",
    "steps.globals": "",
    "steps.globals.huggingface": "PushToHub",
    "steps.reward_model": "RewardModelScore",
    "steps.tasks": (
        "APIGenExecutionChecker APIGenGenerator APIGenSemanticChecker ArgillaLabeller CLAIR "
        "ChatGeneration ChatItem ChatType ComplexityScorer EvolComplexity EvolComplexityGenerator "
        "EvolInstruct EvolInstructGenerator EvolQuality FormatPRM GenerateEmbeddings "
        "GenerateSentencePair GeneratorTask Genstruct ImageGeneration ImageTask "
        "InstructionBacktranslation Magpie MagpieGenerator MathShepherdCompleter "
        "MathShepherdGenerator PairRM PrometheusEval QualityScorer SelfInstruct "
        f"StructuredGeneration Task TextClassification TextGeneration TextGenerationWithImage "
        f"URIAL UltraFeedback task {_IMPROVING}"
    ),
    "steps.tasks.apigen": "",
    "steps.tasks.apigen.execution_checker": "APIGenExecutionChecker",
    "steps.tasks.apigen.generator": "APIGenGenerator",
    "steps.tasks.apigen.semantic_checker": "APIGenSemanticChecker",
    "steps.tasks.apigen.utils": "PrepareExamples load_module_from_path",
    "steps.tasks.argilla_labeller": "ArgillaLabeller",
    "steps.tasks.base": "GeneratorTask GlobalTask ImageTask Task",
    "steps.tasks.clair": "CLAIR",
    "steps.tasks.complexity_scorer": "ComplexityScorer",
    "steps.tasks.decorator": "task",
    "steps.tasks.evol_instruct": "",
    "steps.tasks.evol_instruct.base": "EvolInstruct",
    "steps.tasks.evol_instruct.evol_complexity": "",
    "steps.tasks.evol_instruct.evol_complexity.base": "EvolComplexity",
    "steps.tasks.evol_instruct.evol_complexity.generator": "EvolComplexityGenerator",
    "steps.tasks.evol_instruct.generator": "EvolInstructGenerator",
    "steps.tasks.evol_quality": "",
    "steps.tasks.evol_quality.base": "EvolQuality",
    "steps.tasks.generate_embeddings": "GenerateEmbeddings",
    "steps.tasks.genstruct": "Genstruct",
    "steps.tasks.image_generation": "ImageGeneration",
    "steps.tasks.improving_text_embeddings": _IMPROVING,
    "steps.tasks.instruction_backtranslation": "InstructionBacktranslation",
    "steps.tasks.magpie": "",
    "steps.tasks.magpie.base": "Magpie",
    "steps.tasks.magpie.generator": "MagpieGenerator",
    "steps.tasks.math_shepherd": "",
    "steps.tasks.math_shepherd.completer": "MathShepherdCompleter",
    "steps.tasks.math_shepherd.generator": "MathShepherdGenerator",
    "steps.tasks.math_shepherd.utils": "FormatPRM split_solution_steps",
    "steps.tasks.pair_rm": "PairRM",
    "steps.tasks.prometheus_eval": "PrometheusEval",
    "steps.tasks.quality_scorer": "QualityScorer",
    "steps.tasks.self_instruct": "SelfInstruct",
    "steps.tasks.sentence_transformers": "GenerateSentencePair",
    "steps.tasks.structured_generation": "StructuredGeneration",
    "steps.tasks.structured_outputs": "",
    "steps.tasks.structured_outputs.instructor": "InstructorStructuredOutputType",
    "steps.tasks.structured_outputs.outlines": "OutlinesStructuredOutputType StructuredOutputType",
    "steps.tasks.text_classification": "TextClassification",
    "steps.tasks.text_generation": "ChatGeneration TextGeneration",
    "steps.tasks.text_generation_with_image": "TextGenerationWithImage",
    "steps.tasks.typing": f"{_TYPES_BASE} {_TYPES_MODELS}",
    "steps.tasks.ultrafeedback": "UltraFeedback",
    "steps.tasks.urial": "URIAL",
    "steps.truncate": "TruncateTextColumn",
    "steps.typing": f"{_TYPES_STEPS} StepInput",
    "typing": f"{_TYPES_BASE} {_TYPES_MODELS} {_TYPES_STEPS} {_TYPES_PIPELINE} TokenCount",
    "typing.base": _TYPES_BASE,
    "typing.models": f"{_TYPES_MODELS} TokenCount",
    "typing.pipeline": _TYPES_PIPELINE,
    "typing.steps": _TYPES_STEPS,
    "utils": "",
    "utils.chat": "is_openai_format",
    "utils.image": "image_to_str",
    "utils.logging": "setup_logging",
    "utils.requirements": "requirements",
}

MODULES: dict[str, tuple[str, ...]] = {
    module: tuple(names.split()) for module, names in _MODULES.items()
}
"""Module below the package to the names that it has; a few of older releases are among them."""
