"""A small model of each of 30 families of timm, with an image size that it takes."""

FAMILIES = {
    "resnet18": 64, "resnetv2_18": 64, "mobilenetv3_small_050": 64, "efficientnet_b0": 64, "ghostnet_050": 64,
    "regnetx_002": 64, "densenet121": 64, "dla46_c": 64, "hrnet_w18_small": 64, "mnasnet_050": 64,
    "fbnetc_100": 64, "repvgg_a0": 64, "convnext_atto": 64, "convnextv2_atto": 64, "fastvit_t8": 64,
    "mobileone_s0": 64, "levit_128s": 224, "efficientvit_m0": 224, "mixer_s32_224": 224, "resmlp_12_224": 224,
    "gmlp_ti16_224": 224, "vit_tiny_patch16_224": 224, "deit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "pvt_v2_b0": 224, "edgenext_xx_small": 256, "mobilevit_xxs": 256, "hiera_tiny_224": 224, "test_vit": 160,
    "inception_v3": 299,
}  # fmt: skip
