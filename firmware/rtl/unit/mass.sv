// Routing masses, bit for bit as `cptr_core::Router::mass`: of a softmax exp(value - largest), 21 cycles later, one a
// cycle; of a sigmoid router the sigmoid of the value, over exp(largest) where that is below 0, 63 cycles later, one in
// two cycles: asked for while `ready` is high. Values have their sign turned over, so that a greater word is a greater
// value; the result is `U1F31`.
//
// A sigmoid takes two exponentials and no division: with e = exp(-|z|), 1 / (1 + e) comes of three steps of Newton's
// iteration, y (2 - x y) with x = (1 + e) / 2. Of its eight products each of four multipliers makes two, a product
// every five cycles: one in an even cycle, one in an odd.
module unit_mass #(
  parameter int unsigned TAG = 1,
  parameter int unsigned SIGMOID = 1
) (
  input  logic           clk,
  input  logic           rst_n,
  input  logic           clear,
  input  logic           sigmoid,
  output logic           ready,
  input  logic           in_valid,
  input  logic [TAG-1:0] in_tag,
  input  logic [31:0]    largest,
  input  logic [31:0]    value,
  output logic           out_valid,
  output logic [TAG-1:0] out_tag,
  output logic [31:0]    mass
);
  localparam logic [31:0] ZERO = 32'h8000_0000;

  if (SIGMOID != 0) begin : both
    // The two exponentials of a sigmoid, one after the other: of its distance from 0, and below 0 of its distance from
    // what it is relative to; else of nothing, which is one.
    logic even, asked, second;
    logic [31:0] from_zero, to_zero, from_anchor, to_anchor;
    logic [TAG-1:0] tag;
    wire negative = ~value[31];
    assign ready = even;
    always_ff @(posedge clk or negedge rst_n) begin
      if (!rst_n) {even, asked, second} <= '0;
      else if (clear) {even, asked, second} <= {~even, 2'b00};
      else {even, asked, second} <= {~even, in_valid & sigmoid, asked};
    end
    always_ff @(posedge clk) begin
      if (in_valid) begin
        from_zero <= negative ? ZERO : value;
        to_zero <= negative ? value : ZERO;
        from_anchor <= !negative ? value : largest[31] ? ZERO : largest;
        to_anchor <= value;
        tag <= in_tag;
      end
    end
    logic exp_valid, exp_second;
    logic [TAG-1:0] exp_tag;
    logic [31:0] exp;
    unit_exponential #(.TAG(TAG + 1)) exponential (
      .clk, .rst_n, .clear, .in_valid(sigmoid ? asked | second : in_valid),
      .in_tag(sigmoid ? {second, tag} : {1'b0, in_tag}),
      .largest(sigmoid ? (second ? from_anchor : from_zero) : largest),
      .value(sigmoid ? (second ? to_anchor : to_zero) : value),
      .out_valid(exp_valid), .out_tag({exp_second, exp_tag}), .mass(exp)
    );

    // One and the exponential, halved, U0F32; where that is a half or 1, which the formats cannot hold or invert, what
    // is left is the factor, halved or not.
    logic [31:0] x, factor;
    logic plain, halved;
    always_ff @(posedge clk) begin
      if (exp_valid && !exp_second) begin
        x <= {~exp[31], exp[30:0]};
        plain <= exp == '0 | exp[31];
        halved <= exp[31];
      end
      factor <= exp;
    end

    // Operands of every product, five cycles apart; the first ones are there 23 cycles after a sigmoid was asked for,
    // in an odd cycle.
    logic [31:0] x_5, x_15, x_25, y_0, y_1, y_2, y_3, y_10, y_20, y_30, t_1, t_2, t_3, factor_35;
    unit_delay #(.WIDTH(32), .CYCLES(5)) x_line_5 (.clk, .in(x), .out(x_5));
    unit_delay #(.WIDTH(32), .CYCLES(10)) x_line_15 (.clk, .in(x_5), .out(x_15));
    unit_delay #(.WIDTH(32), .CYCLES(10)) x_line_25 (.clk, .in(x_15), .out(x_25));
    unit_delay #(.WIDTH(32), .CYCLES(5)) y_line_10 (.clk, .in(y_0), .out(y_10));
    unit_delay #(.WIDTH(32), .CYCLES(5)) y_line_20 (.clk, .in(y_1), .out(y_20));
    unit_delay #(.WIDTH(32), .CYCLES(5)) y_line_30 (.clk, .in(y_2), .out(y_30));
    unit_delay #(.WIDTH(32), .CYCLES(35)) factor_line (.clk, .in(factor), .out(factor_35));
    wire odd = ~even;
    logic [63:0] product_1, product_2, product_3, product_4;
    unit_multiply #(.A(32), .B(32)) multiplier_1 (
      .clk, .a(odd ? x : x_5), .b(odd ? 32'hf0f0_f0f0 : y_0), .product(product_1)
    );
    unit_multiply #(.A(32), .B(32)) multiplier_2 (
      .clk, .a(odd ? y_10 : x_15), .b(odd ? t_1 : y_1), .product(product_2)
    );
    unit_multiply #(.A(32), .B(32)) multiplier_3 (
      .clk, .a(odd ? y_20 : x_25), .b(odd ? t_2 : y_2), .product(product_3)
    );
    unit_multiply #(.A(32), .B(32)) multiplier_4 (
      .clk, .a(odd ? y_30 : factor_35), .b(odd ? t_3 : y_3), .product(product_4)
    );
    always_ff @(posedge clk) begin
      // Of 48/17 - 32/17 x.
      y_0 <= 32'h6969_6969 - product_1[63:32];
      t_1 <= -product_1[63:32];
      y_1 <= {product_2[62:32], 1'b0};
      t_2 <= -product_2[63:32];
      y_2 <= {product_3[62:32], 1'b0};
      t_3 <= -product_3[63:32];
      y_3 <= {product_4[62:32], 1'b0};
    end

    // What comes out, and who asked.
    logic plain_39, halved_39;
    logic [31:0] factor_39;
    logic [39:0] valid;
    logic [TAG-1:0] tag_39, begin_tag;
    always_ff @(posedge clk) begin
      begin_tag <= exp_tag;
      out_tag <= sigmoid ? tag_39 : exp_tag;
      mass <= !sigmoid ? exp : plain_39 ? factor_39 >> halved_39 : product_4[63:32];
    end
    unit_delay #(.WIDTH(2), .CYCLES(39)) plain_line (.clk, .in({plain, halved}), .out({plain_39, halved_39}));
    unit_delay #(.WIDTH(32), .CYCLES(4)) factor_line_39 (.clk, .in(factor_35), .out(factor_39));
    unit_delay #(.WIDTH(TAG), .CYCLES(39)) tag_line (.clk, .in(begin_tag), .out(tag_39));
    always_ff @(posedge clk or negedge rst_n) begin
      if (!rst_n) {out_valid, valid} <= '0;
      else if (clear) {out_valid, valid} <= '0;
      else begin
        valid <= {valid[38:0], exp_valid & exp_second & sigmoid};
        out_valid <= sigmoid ? valid[39] : exp_valid;
      end
    end
  end else begin : softmax
    assign ready = 1'b1;
    logic exp_valid;
    logic [TAG-1:0] exp_tag;
    logic [31:0] exp;
    unit_exponential #(.TAG(TAG)) exponential (
      .clk, .rst_n, .clear, .in_valid, .in_tag, .largest, .value, .out_valid(exp_valid), .out_tag(exp_tag), .mass(exp)
    );
    always_ff @(posedge clk) {out_tag, mass} <= {exp_tag, exp};
    always_ff @(posedge clk or negedge rst_n) begin
      if (!rst_n) out_valid <= 1'b0;
      else out_valid <= exp_valid & ~clear;
    end
  end
endmodule
