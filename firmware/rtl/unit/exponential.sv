// exp(-distance), bit for bit as `cptr_core::num::exp_neg`: `U16F16` in, `U1F31` out, 20 cycles later, one a cycle, and
// for who asked to keep. The
// power of two that it is has three parts: whole, 64ths from a table, and the rest from a polynomial.
module unit_exponential #(
  parameter int unsigned TAG = 1
) (
  input  logic           clk,
  input  logic           rst_n,
  input  logic           clear,
  input  logic           in_valid,
  input  logic [TAG-1:0] in_tag,
  input  logic [31:0]    largest,
  input  logic [31:0]    value,
  output logic           out_valid,
  output logic [TAG-1:0] out_tag,
  output logic [31:0]    mass
);
  localparam logic [31:0] LOG2_E = 32'hb8aa_3b29;  // U1F31
  localparam logic [25:0] C1 = 26'd46_515_928;     // of a 64th, U0F32
  localparam logic [17:0] C2 = 18'd250_630;
  // 2^(-i / 64), U1F31, rounded.
  localparam logic [64*32-1:0] POWERS = {
    32'h40b268fa, 32'h4166c34c, 32'h421d1462, 32'h42d561b4, 32'h438fb0cb, 32'h444c0740, 32'h450a6abb, 32'h45cae0f2,
    32'h468d6fae, 32'h47521cc6, 32'h4818ee22, 32'h48e1e9ba, 32'h49ad1598, 32'h4a7a77d4, 32'h4b4a169c, 32'h4c1bf829,
    32'h4cf022ca, 32'h4dc69cdd, 32'h4e9f6cd4, 32'h4f7a9930, 32'h50582888, 32'h51382182, 32'h521a8ad7, 32'h52ff6b55,
    32'h53e6c9da, 32'h54d0ad5a, 32'h55bd1cdb, 32'h56ac1f75, 32'h579dbc57, 32'h5891fac1, 32'h5988e209, 32'h5a82799a,
    32'h5b7ec8f2, 32'h5c7dd7a4, 32'h5d7fad59, 32'h5e8451d0, 32'h5f8bccdb, 32'h60962665, 32'h61a3666d, 32'h62b39509,
    32'h63c6ba64, 32'h64dcdec3, 32'h65f60a7f, 32'h6712460b, 32'h683199ed, 32'h69540ec9, 32'h6a79ad56, 32'h6ba27e65,
    32'h6cce8ae1, 32'h6dfddbcc, 32'h6f307a41, 32'h70666f76, 32'h719fc4b9, 32'h72dc8374, 32'h741cb528, 32'h75606374,
    32'h76a7980f, 32'h77f25cce, 32'h7940bb9e, 32'h7a92be8b, 32'h7be86fba, 32'h7d41d96e, 32'h7e9f0606, 32'h80000000
  };

  // Cycle 1: the distance. From 22 on there is nothing left.
  logic [31:0] distance;
  always_ff @(posedge clk) distance <= largest - value;
  logic none;
  unit_delay #(.WIDTH(1), .CYCLES(19)) none_line (.clk, .in(distance >= 32'd22 << 16), .out(none));

  // Cycles 2 to 5: as a power of two, U6F26.
  logic [52:0] product_1;
  unit_multiply #(.A(21), .B(32)) by_log2_e (.clk, .a(distance[20:0]), .b(LOG2_E), .product(product_1));
  wire [31:0] exponent = product_1[52:21];
  wire [19:0] rest = exponent[19:0];

  // Cycles 6 to 9, and 10: the polynomial.
  logic [37:0] product_2;
  unit_multiply #(.A(20), .B(18)) by_c2 (.clk, .a(rest), .b(C2), .product(product_2));
  logic [19:0] rest_later;
  unit_delay #(.WIDTH(20), .CYCLES(5)) rest_line (.clk, .in(rest), .out(rest_later));
  logic [25:0] factor;
  always_ff @(posedge clk) factor <= C1 - 26'(product_2[37:20]);

  // Cycles 11 to 14: what the power lacks.
  logic [45:0] product_3;
  unit_multiply #(.A(26), .B(20)) by_rest (.clk, .a(factor), .b(rest_later), .product(product_3));
  logic [5:0] entry, whole;
  unit_delay #(.WIDTH(6), .CYCLES(8)) entry_line (.clk, .in(exponent[25:20]), .out(entry));
  unit_delay #(.WIDTH(6), .CYCLES(14)) whole_line (.clk, .in(exponent[31:26]), .out(whole));
  logic [31:0] power, power_later;
  always_ff @(posedge clk) power <= POWERS[32*entry+:32];
  unit_delay #(.WIDTH(32), .CYCLES(4)) power_line (.clk, .in(power), .out(power_later));

  // Cycles 15 to 18, and 19; the shift by eights, 20, and the rest of it.
  logic [57:0] product_4;
  unit_multiply #(.A(32), .B(26)) by_power (.clk, .a(power), .b(product_3[45:20]), .product(product_4));
  logic [31:0] reduced, shifted;
  logic [2:0] whole_rest;
  always_ff @(posedge clk) begin
    reduced <= power_later - 32'(product_4[57:32]);
    shifted <= reduced >> {whole[4:3], 3'd0};
    whole_rest <= whole[2:0];
  end
  assign mass = none ? 32'd0 : shifted >> whole_rest;

  // Who asked.
  logic [19:0] valid;
  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) valid <= '0;
    else if (clear) valid <= '0;
    else valid <= {valid[18:0], in_valid};
  end
  assign out_valid = valid[19];
  unit_delay #(.WIDTH(TAG), .CYCLES(20)) tag_line (.clk, .in(in_tag), .out(out_tag));
endmodule
